"""Mixture of experts: a router sends each token to the few experts that suit it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import Block, Extras, Params, no_block
from pure.composite import Run
from pure.errors import ArgumentError, ShapeError
from pure.layers.alignment import align, widen
from pure.layers.linear import Linear
from pure.leaf import describe
from pure.skips.dynamic.branching import Branching
from pure.skips.dynamic.ranking import largest
from pure.skips.gated.glu import GLU
from pure.tags import tag, watching

__all__ = ["MixtureOfExperts"]


@dataclass(frozen=True, repr=False)
class MixtureOfExperts(Branching):
    """y = Σₑ gₑ fₑ(x) over the k experts of largest logit, g = softmax of those k logits.

    Of equal logits, as of a token of zeros without bias, the lower expert's counts as the larger.

    The branch of a residual block, `Residual(MixtureOfExperts(…))`: x + Σₑ gₑ fₑ(x). Every expert runs on every token
    and the others' weights are zero; "branch" mode leaves out an expert that no token of the batch chose.

    Children: `router`, `expert0`, `expert1`, ….

    Tags: "gate" (g, zero for experts not chosen, (batch, …, experts)), "balance" as loss: experts · Σₑ Fₑ Pₑ, with Fₑ
    the share of tokens sent to e and Pₑ the mean of its softmax over all experts; k where all are used alike. It is
    taken over all tokens that the block sees at once.

    Args:
        router: a block that gives one logit an expert, a token or a sample: (batch, …, experts).
        experts: blocks that keep the input's shape.
        top_k: how many experts a token is sent to.
        mode: "select" or "branch", see `Branching`.

    Raises:
        ArgumentError: `top_k` is not between 1 and the number of experts.
        ShapeError: a router with another number of logits, or an expert that changes the shape.

    Source: Shazeer et al. 2017 (1701.06538), equations 1 and 3 to 5, without noise; Jiang et al. 2024 (2401.04088),
    section 2.1; the loss, Fedus et al. 2021 (2101.03961), equations 4 to 6.

    Example:
        >>> block = MixtureOfExperts.swiglu(4, 6, experts=3, top_k=2)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 5, 4)).shape
        torch.Size([2, 5, 4])
    """

    router: Block
    experts: tuple[Block, ...]
    top_k: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "experts", tuple(self.experts))
        if not 1 <= self.top_k <= len(self.experts):
            raise ArgumentError(
                f"MixtureOfExperts top_k={self.top_k} of {len(self.experts)} experts: expected at least 1 and at most "
                "the number of experts"
            )
        super().__post_init__()

    @classmethod
    def swiglu(cls, features: int, hidden: int, *, experts: int = 8, top_k: int = 2) -> MixtureOfExperts:
        """Return Mixtral's layer: a linear router and SwiGLU experts, all without bias."""
        return cls(Linear(features, experts, bias=False), (GLU(features, hidden, "silu", bias=False),) * experts, top_k)

    def parts(self) -> dict[str, Block]:
        """Return the router, then the experts."""
        found = {"router": self.router, **{f"expert{index}": block for index, block in enumerate(self.experts)}}
        for name, block in found.items():
            if not isinstance(block, Block):
                raise no_block(f"MixtureOfExperts {name}={block!r}", block)
        return found

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the weighted sum of the experts."""
        logits = widen(run("router", x))
        if logits.shape[-1] != len(self.experts) or logits.ndim > x.ndim:
            raise ShapeError(
                f"MixtureOfExperts: router {describe(logits)} for input {describe(x)}, expected {len(self.experts)} "
                "logits, one an expert, on the last axis"
            )
        best, chosen = largest(logits, self.top_k, -1)
        gates = torch.zeros_like(logits).scatter(-1, chosen, torch.softmax(best, -1))
        if watching():
            tag(gates, "gate", kind="gate")
            tag(self._balance(logits, chosen), "balance", kind="loss")
        total = None
        for index in range(len(self.experts)):
            gate = gates[..., index]

            def weighted(x: Tensor, index: int = index, gate: Tensor = gate) -> Tensor:
                f: Tensor = run(f"expert{index}", x)
                if f.shape != x.shape:
                    raise ShapeError(
                        f"MixtureOfExperts: expert {index} {tuple(f.shape)} for input {tuple(x.shape)}: experts keep "
                        "the shape"
                    )
                return align(gate.to(f.dtype), f) * f

            part = self.when(gate > 0, weighted, torch.zeros_like, (x,))
            total = part if total is None else total + part
        return total

    def _balance(self, logits: Tensor, chosen: Tensor) -> Tensor:
        tokens = tuple(range(logits.ndim - 1))
        sent = torch.zeros_like(logits).scatter(-1, chosen, torch.ones_like(logits)).mean(tokens)
        return len(self.experts) * (sent * torch.softmax(logits, -1).mean(tokens)).sum()
