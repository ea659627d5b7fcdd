"""What noisy runs say of values: references, rounding scales, and what scales are made of."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from export.verdict.decisions import Decision, Pick
from export.verdict.verdict_result import OutputSample

__all__ = ["InnerValues", "RoundingSizes", "Sampled", "Scales", "Spread", "positions"]

MAX_SIZES_BYTES = 2**31
"""Of sizes of roundings that lie in memory for all runs of a graph."""

MAX_KEPT = 256
"""Elements of a leaf that a verdict keeps for later comparison."""
GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, without their whole parts, are spread evenly over the unit interval."""


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What noisy runs say of one value.

    Attributes:
        reference: the value in float64.
        scale: for floats the spread of each element; for integers and booleans how far rounding changes it.
        pick: for positions that were picked by value, what they were picked from.
    """

    reference: Tensor
    scale: Tensor
    pick: Pick | None = None

    def some(self, leaf: str, found: Tensor) -> OutputSample:
        """Return a file's values at some elements, spread over the leaf, beside the reference and the scales there."""
        given = found.detach().cpu().reshape(-1)
        at = positions(min(given.numel(), self.reference.numel()))  # a wrong file may give another number of them
        largest = float(given.double().abs().max()) if given.numel() and not given.is_complex() else math.nan
        columns = (given, self.reference.cpu().reshape(-1), self.scale.cpu().reshape(-1))
        values, reference, scales = (tuple(_real(column)[at].tolist()) for column in columns)
        return OutputSample(leaf, largest, values, reference, scales)


def positions(count: int) -> Tensor:
    """Return the elements that are kept of so many: all of them, or some that lie evenly but on no grid.

    >>> positions(3).tolist()
    [0, 1, 2]
    """
    if count <= MAX_KEPT:
        return torch.arange(count)
    return (torch.arange(MAX_KEPT, dtype=torch.float64) * GOLDEN % 1 * count).long()


def _real(values: Tensor) -> Tensor:
    return (values.abs() if values.is_complex() else values).double()


@dataclasses.dataclass(frozen=True)
class Scales:
    """The outputs of a recorded graph with their rounding scales.

    Attributes:
        outputs: one entry an output.
        decisions: every operator that decides by value, by key.
        branches: {condition: branches taken, one an execution}.
        lifted: lines of source whose casts to a narrower dtype the reference does not make.
        values: the same as `outputs` for the operators asked for, by key; those of a loop's steps lie stacked.
        followed_too_often: what is wrong if more picks than rounding explains were taken otherwise than in float64.
    """

    outputs: tuple[Sampled, ...]
    decisions: dict[str, Decision]
    branches: dict[str, list[bool]]
    lifted: tuple[str, ...] = ()
    values: dict[str, Sampled] = dataclasses.field(default_factory=dict)
    followed_too_often: str = ""


class RoundingSizes:
    """The sizes of a graph's roundings, written by the exact run and read by the noisy ones.

    They take two bytes an element of every result, all through the graph. Those of a large graph are not kept from some
    place on, the same in every run: what comes then is computed again by each run, from its own values.
    """

    def __init__(self) -> None:
        self.kept: dict[str, list[Sequence[Tensor | None] | None]] = {}
        self.bytes = 0

    def add(self, key: str, sizes: Callable[[], Sequence[Tensor | None]]) -> None:
        """Keep the sizes of one execution of an operator, one entry a result, if there is room."""
        found = sizes() if self.bytes < MAX_SIZES_BYTES else None
        self.bytes += sum(size.numel() * size.element_size() for size in found or () if size is not None)
        self.kept.setdefault(key, []).append(found)

    def at(self, key: str, execution: int) -> Sequence[Tensor | None] | None:
        """Return what was kept of an operator's execution; None where there was no room."""
        return self.kept[key][execution]


class Spread:
    """Mean square changes of values over noisy runs."""

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.totals: dict[Any, Tensor] = {}

    def add(self, reference: Mapping[Any, Tensor], found: Mapping[Any, Tensor]) -> None:
        """Add one run's values."""
        for key, exact in reference.items():
            value = found.get(key)
            if value is None or value.shape != exact.shape:
                continue
            change = (value.double() - exact.double()).square_().nan_to_num_(nan=0.0, posinf=0.0)
            known = self.totals.setdefault(key, change)
            if known is not change and exact.is_floating_point():
                known.add_(change)
            elif known is not change:
                torch.maximum(known, change, out=known)

    def scale(self, key: Any, reference: Tensor) -> Tensor:
        """Return the root mean square of a float's changes, for others the largest change, and keep no sum of them."""
        total = self.totals.pop(key, None)
        if total is None:
            return torch.zeros(reference.shape, dtype=torch.float64, device=reference.device)
        return total.div_(self.runs).sqrt_() if reference.is_floating_point() else total.sqrt_()


class InnerValues:
    """Values of operators inside a graph: the exact run's are kept, a noisy run's only change their spreads.

    Args:
        wanted: keys of the operators.
    """

    def __init__(self, wanted: Collection[str]) -> None:
        self.wanted = frozenset(wanted)
        self.exact: dict[str, list[Tensor]] = {}
        self.spread = Spread(1)

    def keep(self, key: str, value: Tensor) -> None:
        """Keep a value of the exact run; one operator may be run several times."""
        if key in self.wanted:
            self.exact.setdefault(key, []).append(value)

    def begin(self, runs: int) -> None:
        """Begin with a set of noisy runs."""
        self.spread = Spread(runs)

    def compared(self) -> Callable[[str, Tensor], None]:
        """Return what adds the values of one noisy run."""
        counts: Counter[str] = Counter()

        def compare(key: str, value: Tensor) -> None:
            steps = self.exact.get(key, ())
            if counts[key] < len(steps):
                number = counts[key]
                counts[key] += 1
                self.spread.add({(key, number): steps[number]}, {(key, number): value})

        return compare

    def sampled(self, picks: Mapping[str, Pick | None]) -> dict[str, Sampled]:
        """Return the values with their scales, those of several steps stacked.

        Args:
            picks: what positions were picked from, by key.
        """
        found = {}
        for key, steps in self.exact.items():
            scales = [self.spread.scale((key, number), value) for number, value in enumerate(steps)]
            if len(steps) == 1:
                found[key] = Sampled(steps[0], scales[0], picks.get(key))
            elif len({value.shape for value in steps}) == 1:
                found[key] = Sampled(torch.stack(steps), torch.stack(scales))
        return found
