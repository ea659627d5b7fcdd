"""The parts J_k u of a Jacobian through exactly k branches, for stacks that theory reads; it maps over draws.

One sweep forward: V_k ← S V_k + B V_{k−1}, S the carry and B the branch's derivative, for all k at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap

from pure import tree
from pure.block import EMPTY, Block, Params
from pure.compose import Rename, Repeat, Sequential
from pure.compose.initialize import Initialize
from pure.skips import Residual
from pure.skips.scaled.factors import Weighted

__all__ = ["path_parts"]


def path_parts(block: Block, params: Params, x: Tensor, u: Tensor, orders: int) -> Tensor:
    """Return J_0 u, …, J_K u, the last with all higher ones in it, so that their sum is J u: (K + 1, batch, out).

    `flow.path_spectrum` is the general one; this one has no state, and runs inside `torch.vmap`.

    Args:
        block: a block that `predict` reads.
        params: its parameters.
        x: (batch, in).
        u: (batch, in).
        orders: K + 1.

    Example:
        >>> from pure import Linear
        >>> block = Repeat(Residual(Linear(1, 1, bias=False)), 3)
        >>> params = {"branch": {"weight": torch.full((3, 1, 1), 2.0)}}
        >>> path_parts(block, params, torch.ones(1, 1), torch.ones(1, 1), 4).flatten()
        tensor([ 1.,  6., 12.,  8.])
    """
    parts = torch.zeros((orders, *u.shape), dtype=u.dtype, device=u.device)
    parts = torch.cat([u[None], parts[1:]])
    return _sweep(block, params, x, parts)[1]


def _sweep(block: Block, params: Params, x: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(block, Initialize):
        return _sweep(block.block, params, x, parts)
    if type(block) is Sequential:
        for name, child in block.items:
            x, parts = _sweep(child, params.get(name, EMPTY), x, parts)
        return x, parts
    if isinstance(block, Repeat):
        slices = tree.unstack(params) if params else [EMPTY] * block.depth
        for child, part in zip(block.children().values(), slices, strict=True):
            x, parts = _sweep(child, part, x, parts)
        return x, parts

    def pushed(tangent: Tensor) -> Tensor:
        out: Any = jvp(lambda value: block(params, value), (x,), (tangent,))[1]
        return out

    through = vmap(pushed)(parts)
    carry = _carry(block)
    if carry is None:
        return block(params, x), through
    kept = carry * parts
    branch = through - kept
    moved = torch.cat([torch.zeros_like(branch[:1]), branch[:-2], branch[-2:].sum(0, keepdim=True)])
    return block(params, x), kept + (moved if len(parts) > 1 else branch)


def _carry(block: Block) -> float | None:
    """Return what stands in front of the stream of a skip; None for a block that is none."""
    if isinstance(block, Rename):
        return _carry(block.block)
    if isinstance(block, Weighted):
        return block.carry
    return 1.0 if isinstance(block, Residual) else None
