"""Audits whose depth is split over the ranks, held against one process: equal bit for bit."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import pure
from pure import flow, tree
from pure.block import Block, Params, State
from pure.skips import DenseSkip, Highway, Residual, pre_norm

__all__ = ["AUDITS", "NETWORKS", "audited", "compare", "without_held"]


def _mlp() -> Block:
    return pure.Sequential(pure.Linear(3, 4), *[Residual(_layer(4)) for _ in range(6)], pure.Linear(4, 2))


def _layer(width: int) -> Block:
    return pure.Sequential(pure.Linear(width, 5), pure.Activation("tanh"), pure.Linear(5, width))


def _batch_norm() -> Block:
    block = pure.Sequential(pure.Conv2d(2, 2, 3, padding=1), pure.BatchNorm(2), pure.Activation("relu"))
    stem = pure.Conv2d(1, 2, 3, padding=1)
    head = (pure.GlobalAvgPool(), pure.Flatten(), pure.Linear(2, 2))
    return pure.Sequential(stem, *[Residual(block) for _ in range(4)], *head)


def _gated() -> Block:
    return pure.Repeat(Highway(pure.Linear(3, 3), pure.Linear(3, 3)), 7)


def _dense() -> Block:
    layers = [DenseSkip(pure.Sequential(pure.Linear(width, 2), pure.Activation("tanh"))) for width in range(3, 13, 2)]
    return pure.Sequential(*layers, pure.Linear(13, 2))


def _attention() -> Block:
    block = pre_norm(pure.Attention(4, 2), pure.LayerNorm(4))
    return pure.Sequential(pure.Repeat(block, 5), pure.Flatten(), pure.Linear(8, 2))


NETWORKS: dict[str, tuple[Callable[[], Block], tuple[int, ...]]] = {
    "residual": (_mlp, (3,)),
    "batch norm": (_batch_norm, (1, 3, 3)),
    "gated": (_gated, (3,)),
    "dense": (_dense, (3,)),
    "attention": (_attention, (2, 4)),
}
"""Family → the network, of a depth that 2, 3 or 4 ranks do not divide, and the shape of a sample."""


def _loss(y: Tensor, target: Tensor) -> Tensor:
    return (y - target).square().mean()


def _options(block: Block) -> dict[str, Any]:
    return {"generator": torch.Generator().manual_seed(5), "deletions": 4, "stations": 3}


def _poisoned(block: Block, params: Params) -> Params:
    """Return parameters of which one, well up in the network, is infinite."""
    flat = dict(tree.flatten(params))
    name = list(flat)[len(flat) * 2 // 3]
    leaf = flat[name].clone()
    stacked = isinstance(block, pure.Repeat) or isinstance(block.children()[name.split(".")[0]], pure.Repeat)
    (leaf[-2] if stacked else leaf).fill_(float("inf"))
    return tree.unflatten({**flat, name: leaf})


AUDITS: dict[str, Callable[[Block, Params, Tensor, State, Mapping[str, Any]], flow.Audit]] = {
    "audit": lambda block, params, x, state, over: flow.audit(block, params, x, state, **_options(block), **over),
    "audit, with a loss": lambda block, params, x, state, over: flow.audit(
        block, params, x, state, loss=_loss, targets=(block(params, x, state).cos(),), **_options(block), **over
    ),
    "audit, inputs computed again": lambda block, params, x, state, over: flow.audit(
        block, params, x, state, budget_mib=0.0, **_options(block), **over
    ),
    "audit up to an infinity": lambda block, params, x, state, over: flow.audit(
        block, _poisoned(block, params), x, state, **_options(block), **over
    ),
}
"""Name → the audit; `over` is what a group adds."""


def audited(family: str, name: str, over: Mapping[str, Any]) -> flow.Audit:
    """Return an audit of a network whose values are not initial ones."""
    make, shape = NETWORKS[family]
    block, generator = make(), torch.Generator().manual_seed(0)
    params, state = block.init(generator, torch.float64)
    params = tree.tree_map(lambda p: p + 0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype), params)
    x = torch.randn(5, *shape, generator=generator, dtype=torch.float64)
    return AUDITS[name](block, params, x, state, over)


def without_held(found: flow.Audit) -> str:
    """Return all that an audit found as text, digit for digit, but for how many streams it held."""
    return json.dumps(dataclasses.replace(found, held=0).to_dict(), sort_keys=True)


def compare(family: str, name: str) -> float | None:
    """Return 0 if the split audit gives every digit of the whole one, else infinity."""
    if family not in NETWORKS:
        return None
    expected, found = audited(family, name, {}), audited(family, name, {"group": "world"})
    assert found.held <= expected.held
    assert (expected.stop is not None and len(expected) > 1) == (name == "audit up to an infinity"), expected
    assert expected.stop or (len(expected.pairs) > 3 and len(expected.deletions) > 1), expected
    return 0.0 if without_held(found) == without_held(expected) else float("inf")
