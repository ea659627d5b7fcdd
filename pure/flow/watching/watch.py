"""Measurements beside the steps of a training run, as a pure function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.block import Params
from pure.errors import ArgumentError
from pure.flow.per_sample.sample_norms import per_sample_norms
from pure.flow.shared.result import PlainData
from pure.flow.shared.text_table import table as text_table
from pure_export_shared import HtmlText

__all__ = ["BlockNorms", "Observation", "Watched", "noise_scale", "watch"]

Measure = Callable[..., Any]


@dataclass(frozen=True)
class BlockNorms:
    """The weights of one block, and what a step did to them.

    Attributes:
        weight: L2 norm of its parameters before the step.
        update: L2 norm of their change.
        ratio: update over weight; NaN where the weights are 0.
    """

    weight: float
    update: float
    ratio: float


@dataclass(frozen=True)
class Observation(PlainData, HtmlText):
    """What was measured at one step.

    Attributes:
        step: its number.
        blocks: norms by block.
        measures: the chosen measurements by name.
    """

    step: int
    blocks: dict[str, BlockNorms] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """Return a plain text table."""
        rows = [(name, f"{n.weight:.4g}", f"{n.update:.4g}", f"{n.ratio:.3g}") for name, n in self.blocks.items()]
        lines = text_table(("block", "weight norm", "update norm", "ratio"), rows)
        return "\n".join([f"step {self.step}", lines, *(f"{k} {v:.4g}" for k, v in self.measures.items())])


@dataclass(frozen=True)
class Watched:
    """A step with measurements: `outputs, observation = watched(number, params, *rest)`.

    Attributes:
        step: the step, `(params, *rest) → outputs`, whose outputs are the new parameters or begin with them.
        every: how many steps there are from one measurement to the next.
        measures: {name: function of the step's arguments, whose value is a number}.
        levels: how many components of a parameter's dotted name make its block; None for all but the last.
    """

    step: Callable[..., Any]
    every: int
    measures: Mapping[str, Measure]
    levels: int | None

    def __call__(self, number: int, params: Params, *rest: Any) -> tuple[Any, Observation | None]:
        """Return what the step returns, and what was measured, None between measurements.

        Raises:
            ArgumentError: the step's first output is not a tree like the parameters.
        """
        outputs = self.step(params, *rest)
        if number % self.every:
            return outputs, None
        after = outputs[0] if isinstance(outputs, tuple) else outputs
        with torch.no_grad():
            blocks = self._blocks(params, after)
        found = {name: float(measure(params, *rest)) for name, measure in self.measures.items()}
        return outputs, Observation(number, blocks, found)

    def _blocks(self, params: Params, after: Any) -> dict[str, BlockNorms]:
        before = tree.flatten(params)
        new = tree.flatten(after) if isinstance(after, Mapping) else {}
        if new.keys() != before.keys():
            raise ArgumentError(
                "watch: the step's first output is not a tree with the names of the parameters: expected "
                "step(params, …) to return new_params or (new_params, …)"
            )
        weights = torch._foreach_norm(list(before.values()))
        updates = torch._foreach_norm(torch._foreach_sub([new[name] for name in before], list(before.values())))
        norms = torch.stack([norm.float() for norm in (*weights, *updates)]).tolist()  # one transfer from the device
        grouped: dict[str, tuple[list[float], list[float]]] = {}
        for name, weight, update in zip(before, norms[: len(before)], norms[len(before) :], strict=True):
            mine = grouped.setdefault(self._block(name), ([], []))
            mine[0].append(weight)
            mine[1].append(update)
        found = {}
        for name, parts in grouped.items():
            weight, update = (math.hypot(*part) for part in parts)
            found[name] = BlockNorms(weight, update, update / weight if weight else math.nan)
        return found

    def _block(self, name: str) -> str:
        parts = name.split(".")
        kept = parts[:-1] if self.levels is None else parts[: self.levels]
        return ".".join(kept) or name


def watch(
    step: Callable[..., Any],
    *,
    every: int = 1,
    measures: Mapping[str, Measure] | None = None,
    levels: int | None = None,
) -> Watched:
    """Return a step that returns measurements beside its outputs: `outputs, observation = watched(number, params, …)`.

    Nothing is stored and nothing is printed: keep the observations in a list, and `watch_page` draws it. Norms of
    weights and updates by block are always measured; they need no gradient, so any optimiser's step can be watched.

    Args:
        step: `(params, *rest) → new_params` or `(new_params, …)`, such as a step with optimiser state and batch.
        every: measure at steps 0, every, 2 · every, …; the others cost nothing.
        measures: {name: function of the step's own arguments}, such as
            `{"noise scale": lambda params, state, *batch: flow.noise_scale(loss, params, *batch)}`; likewise with
            `flow.curvature` for sharpness and `flow.gates` for saturated gates.
        levels: how many components of a parameter's dotted name make its block; None for all but the last.

    Raises:
        ArgumentError: `every` or `levels` below 1, or a step or measure that is no function.

    Example:
        >>> watched = watch(lambda params, rate: {"fc": {"weight": params["fc"]["weight"] * (1 - rate)}}, every=2)
        >>> params, seen = watched(0, {"fc": {"weight": torch.ones(4)}}, 0.25)
        >>> seen.blocks["fc"]
        BlockNorms(weight=2.0, update=0.5, ratio=0.25)
        >>> watched(1, params, 0.25)[1] is None
        True
    """
    if every < 1 or (levels is not None and levels < 1):
        raise ArgumentError(f"watch every={every}, levels={levels}: expected at least 1")
    chosen = dict(measures or {})
    for name, function in {"step": step, **chosen}.items():
        if not callable(function):
            raise ArgumentError(f"watch {name} is {type(function).__name__}, expected a function")
    return Watched(step, every, chosen, levels)


def noise_scale(loss: Callable[..., Any], params: Params, *batch: Any) -> float:
    """Return the gradient noise scale tr Σ / |G|² of one sample, from the norms of the samples' gradients.

    Both parts are unbiased; a batch far larger than the scale gains little (and far smaller loses little).

    Args:
        loss: `loss(params, *sample)`, one sample's scalar loss.
        params: where the gradients are taken.
        batch: the samples, the batch on axis 0; at least two.

    Raises:
        ArgumentError: fewer than two samples.

    Source: McCandlish et al. 2018 (1812.06162), section 2.2 and appendix A.1.

    Example:
        >>> def loss(params, x):
        ...     return (params["w"] * x).sum()
        >>> round(noise_scale(loss, {"w": torch.ones(1)}, torch.tensor([[1.0], [3.0]])), 4)
        0.6667
    """
    norms = per_sample_norms(loss, params, *batch).total
    count = len(norms)
    if count < 2:
        raise ArgumentError(f"noise_scale of {count} samples: expected at least 2")

    def mean_loss(params: Params) -> Tensor:
        axes = (None, *(0 for _ in batch))
        return torch.func.vmap(loss, in_dims=axes)(params, *batch).mean()

    gradient = tree.leaves(torch.func.grad(mean_loss)(params))
    whole = float(torch.stack([leaf.double().square().sum() for leaf in gradient]).sum())
    single = float(norms.double().square().mean())
    variance = (single - whole) * count / (count - 1)
    signal = whole - variance / count
    return variance / signal if signal > 0 else math.inf
