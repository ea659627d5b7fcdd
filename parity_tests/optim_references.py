"""The optimisers, links and schedules of `pure.optim` beside optax and torch.optim.

`python -m parity_tests.optim_references` prints how far the updates, parameters or rates are apart over 20 steps in
float64, as a part of their largest element. Of optax's schedules only the cosine is float64 inside an optimiser,
so the others are compared for steps that are Python numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import torch
from torch import Tensor

from pure import nets, optim, tree

__all__ = ["LINKS", "OPTIMIZERS", "SCHEDULES", "STEPS", "Row", "comparisons"]

STEPS = 20
PEAK, SHORT, LONG = 0.1, 5, 16
"""Of the schedules: the highest rate, and steps at which something happens."""

SCHEDULES: dict[str, tuple[optim.schedules.Schedule, Callable[[Any], Any]]] = {
    "constant_schedule": (optim.constant_schedule(PEAK), optax.constant_schedule(PEAK)),
    "linear_schedule": (optim.linear_schedule(0.5, PEAK, LONG, 2), optax.linear_schedule(0.5, PEAK, LONG, 2)),
    "exponential_decay": (optim.exponential_decay(PEAK, SHORT, 0.7), optax.exponential_decay(PEAK, SHORT, 0.7)),
    "cosine_decay_schedule": (
        optim.cosine_decay_schedule(PEAK, LONG, 0.2, 1.5),
        optax.cosine_decay_schedule(PEAK, LONG, 0.2, 1.5),
    ),
    "warmup_cosine_decay_schedule": (
        optim.warmup_cosine_decay_schedule(0.01, PEAK, SHORT, LONG, 0.02),
        optax.warmup_cosine_decay_schedule(0.01, PEAK, SHORT, LONG, 0.02),
    ),
    "linear_onecycle_schedule": (
        optim.linear_onecycle_schedule(LONG, PEAK),
        optax.linear_onecycle_schedule(LONG, PEAK),
    ),
    "cosine_onecycle_schedule": (
        optim.cosine_onecycle_schedule(LONG, PEAK),
        optax.cosine_onecycle_schedule(LONG, PEAK),
    ),
    "piecewise_constant_schedule": (
        optim.piecewise_constant_schedule(PEAK, {SHORT: 0.5, LONG: 0.1}),
        optax.piecewise_constant_schedule(PEAK, {SHORT: 0.5, LONG: 0.1}),
    ),
    "join_schedules": (
        optim.join_schedules([optim.constant_schedule(1.0), optim.linear_schedule(0.0, 1.0, 9)], [SHORT]),
        optax.join_schedules([optax.constant_schedule(1.0), optax.linear_schedule(0.0, 1.0, 9)], [SHORT]),
    ),
}

Pairs = dict[str, tuple[optim.GradientTransformation, Any]]
LINKS: Pairs = {
    "clip": (optim.clip(0.01), optax.clip(0.01)),
    "clip_by_global_norm": (optim.clip_by_global_norm(0.5), optax.clip_by_global_norm(0.5)),
    "add_decayed_weights": (optim.add_decayed_weights(0.1), optax.add_decayed_weights(0.1)),
    "trace": (optim.trace(0.9), optax.trace(0.9)),
    "trace, nesterov": (optim.trace(0.9, nesterov=True), optax.trace(0.9, nesterov=True)),
    "ema": (optim.ema(0.9), optax.ema(0.9)),
    "scale_by_adam": (optim.scale_by_adam(0.8, 0.95, 1e-6), optax.scale_by_adam(0.8, 0.95, 1e-6)),
    "scale_by_lion": (optim.scale_by_lion(), optax.scale_by_lion()),
    "scale_by_trust_ratio": (optim.scale_by_trust_ratio(), optax.scale_by_trust_ratio()),
    "scale_by_schedule": tuple(
        library.scale_by_schedule(schedule)
        for library, schedule in zip((optim, optax), SCHEDULES["cosine_decay_schedule"], strict=True)
    ),
    "apply_if_finite": (
        optim.apply_if_finite(optim.trace(0.9), 2),
        optax.apply_if_finite(optax.trace(0.9), 2),
    ),
    "masked": (
        optim.masked(optim.trace(0.9), "*.weight"),
        optax.masked(
            optax.trace(0.9), {"fc1": {"weight": True, "bias": False}, "fc2": {"weight": True, "bias": False}}
        ),
    ),
}

WHOLE: Pairs = {
    "lamb": (optim.lamb(0.01, weight_decay=0.1), optax.lamb(0.01, weight_decay=0.1)),
    "lion": (optim.lion(0.01), optax.lion(0.01)),
    "adamw, masked decay": (
        optim.adamw(0.01, weight_decay=0.1, mask=lambda name, leaf: leaf.ndim > 1),
        optax.adamw(0.01, weight_decay=0.1, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)),
    ),
    "multi_transform": (
        optim.multi_transform({"slow": optim.sgd(0.01), "fast": optim.adam(0.1)}, {"*.bias": "slow", "*": "fast"}),
        optax.multi_transform(
            {"slow": optax.sgd(0.01), "fast": optax.adam(0.1)},
            {layer: {"weight": "fast", "bias": "slow"} for layer in ("fc1", "fc2")},
        ),
    ),
    "chain": (
        optim.chain(optim.clip_by_global_norm(0.5), optim.adamw(SCHEDULES["cosine_decay_schedule"][0])),
        optax.chain(
            optax.clip_by_global_norm(0.5),
            optax.adamw(SCHEDULES["cosine_decay_schedule"][1], weight_decay=0.01),
        ),
    ),
}
MATRIX = optax.contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=1)
MATRICES: Pairs = {
    "muon": (
        optim.scale_by_muon(nesterov=False, eps=0.0),
        optax.chain(
            optax.contrib.scale_by_muon(
                nesterov=False,
                eps=0.0,
                weight_dimension_numbers=lambda params: jax.tree.map(lambda _: MATRIX, params),
            ),
            optax.stateless(lambda u, p: jax.tree.map(lambda x: x * max(1.0, x.shape[0] / x.shape[1]) ** 0.5, u)),
        ),
    ),
}
OPTIMIZERS: dict[str, tuple[optim.GradientTransformation, Callable[[list[Tensor]], torch.optim.Optimizer]]] = {
    "sgd": (optim.sgd(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "sgd, momentum": (optim.sgd(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "sgd, nesterov, decay": (
        optim.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "adamw": (optim.adamw(0.01), lambda p: torch.optim.AdamW(p, 0.01)),
    "adam": (
        optim.adam(0.02, betas=(0.8, 0.95), eps=1e-6),
        lambda p: torch.optim.Adam(p, 0.02, (0.8, 0.95), 1e-6),
    ),
}


@dataclass(frozen=True)
class Row:
    """How far one pair is apart.

    Attributes:
        name: of ours.
        reference: the library that it is held against.
        error: the largest difference over the steps, as a part of the largest element.
    """

    name: str
    reference: str
    error: float


def comparisons() -> dict[str, Callable[[], Row]]:
    """Return the comparisons by name, each run when it is called."""

    def beside(name: str, reference: str, error: Callable[[], float]) -> Callable[[], Row]:
        def run() -> Row:
            with jax.enable_x64(True):
                return Row(name, reference, error())

        return run

    found = {}
    for name, (schedule, theirs) in SCHEDULES.items():
        found[name] = beside(name, "optax", partial(schedules_apart, schedule, theirs))
    for name, (link, other) in {**LINKS, **WHOLE}.items():
        found[name] = beside(name, "optax", partial(beside_optax, link, other))
    for name, (link, other) in MATRICES.items():
        found[name] = beside(name, "optax", partial(beside_optax, link, other, "*.weight"))
    for name, (optimizer, make) in OPTIMIZERS.items():
        found[name] = beside(name, "torch.optim", partial(beside_torch, optimizer, make))
    return found


def schedules_apart(ours: optim.schedules.Schedule, theirs: Callable[[Any], Any]) -> float:
    """Return the largest distance between rates over the steps."""
    return apart([float(ours(torch.tensor(s))) for s in range(STEPS)], [float(theirs(s)) for s in range(STEPS)])


def apart(found: Any, expected: Any) -> float:
    """Return the largest difference, as a part of the largest element."""
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-300))


def problem(only: str | None = None) -> tuple[Any, Callable[[Any, int], Any]]:
    """Return parameters, and gradients that depend on them and on the step: of a residual block's loss."""
    block = nets.simple_block(3, 4, 2)
    params, _ = block.init(torch.Generator().manual_seed(0), torch.float64)
    free, fixed = tree.partition(params, only) if only else (params, {})

    def gradient(params: Any, step: int) -> Any:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        return torch.func.grad(lambda p: (block(tree.combine(p, fixed), x) - 1).square().mean())(params)

    return free, gradient


def beside_optax(ours: optim.GradientTransformation, theirs: Any, only: str | None = None) -> float:
    """Return the largest distance between updates, and parameters, over the steps.

    Args:
        ours: a transformation.
        theirs: optax's.
        only: the parameters that are trained, as a pattern.
    """
    params, gradient = problem(only)
    state, other_state = ours.init(params), theirs.init(as_arrays(params))
    largest = 0.0
    for step in range(STEPS):
        slope = gradient(params, step)
        updates, state = ours.update(slope, state, params)
        expected, other_state = theirs.update(as_arrays(slope), other_state, as_arrays(params))
        others = tree.flatten(expected)  # JAX sorts the names
        largest = max(largest, *(apart(own, others[name]) for name, own in tree.flatten(updates).items()))
        params = optim.apply_updates(params, tree.tree_map(lambda u: -0.01 * u, updates))
    return largest


def beside_torch(ours: optim.GradientTransformation, make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> float:
    """Return the largest distance between parameters over the steps."""
    params, gradient = problem()
    leaves = [leaf.clone() for leaf in tree.leaves(params)]
    theirs, state, largest = make(leaves), ours.init(params), 0.0
    for step in range(STEPS):
        slope = gradient(params, step)
        params, state = ours.step(slope, state, params)
        for leaf, own in zip(leaves, tree.leaves(slope), strict=True):
            leaf.grad = own
        theirs.step()
        largest = max(largest, *(apart(a, b) for a, b in zip(tree.leaves(params), leaves, strict=True)))
    return largest


def as_arrays(given: Any) -> Any:
    """Return a tree of tensors as arrays of JAX."""
    return jax.tree.map(
        lambda leaf: jax.numpy.asarray(leaf.numpy()), given, is_leaf=lambda leaf: isinstance(leaf, Tensor)
    )


def main() -> int:
    """Print the table; return 1 if a pair is more than 1e-12 apart."""
    found = [run() for run in comparisons().values()]
    print(f"torch {torch.__version__}, optax {optax.__version__}, jax {jax.__version__}: {STEPS} steps in float64")
    for row in found:
        print(f"{row.name:32} {row.reference:12} {row.error:.1e}")
    return int(any(not row.error <= 1e-12 for row in found))


if __name__ == "__main__":
    sys.exit(main())
