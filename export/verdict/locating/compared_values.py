"""Values that file and function both have, compared; and the first of them that differs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from export.verdict.comparison import element_ratios
from export.verdict.locating.recorded_values import Probe
from export.verdict.sampled import Sampled

__all__ = ["Compared", "first_difference", "largest_ratio"]


@dataclasses.dataclass(frozen=True)
class Compared:
    """A value that both sides have.

    Attributes:
        probe: the value.
        ratio: how far it is off, in units of its rounding scale.
        value: what the file gives; of a loop with one leading axis for all steps.
        sampled: what is expected.
        shape: the shape that it has in the file.
    """

    probe: Probe
    ratio: float
    value: Tensor
    sampled: Sampled
    shape: torch.Size

    @classmethod
    def of(cls, probe: Probe, value: Tensor, sampled: Sampled) -> Compared:
        """Compare what the file gives with what is expected."""
        expected, shape = sampled.reference.shape, value.shape
        if probe.site.loops and value.numel() == sampled.reference.numel():
            value = value.reshape(expected)
        return cls(probe, largest_ratio(value, sampled, probe.dtype), value, sampled, shape)

    def first_step(self, limit: float) -> int:
        """Return the first step of its loops at which it differs."""
        if self.value.shape != self.sampled.reference.shape:
            return 0
        steps = range(len(self.value))
        return next((i for i in steps if largest_ratio(self.value[i], self.at(i), self.probe.dtype) > limit), 0)

    def at(self, step: int) -> Sampled:
        """Return what is expected at a step."""
        return Sampled(self.sampled.reference[step], self.sampled.scale[step])

    def in_file(self) -> Sampled:
        """Return what is expected in the shape that the file's value has."""
        reference, scale = self.sampled.reference, self.sampled.scale
        if reference.numel() != self.shape.numel() or not self.probe.site.loops:
            return self.sampled
        return Sampled(reference.reshape(self.shape), scale.reshape(self.shape))


def first_difference(wrong: Sequence[Compared], limit: float) -> Compared | None:
    """Return the first value that differs: in the file's order, of a loop's step by step."""
    first = next(iter(wrong), None)
    if first is None or not first.probe.site.loops:
        return first
    for loops in range(1, first.probe.site.loops + 1):
        # Of the values in the same loops, those that differ at the earliest step of the outer ones.
        steps = first.shape[:loops].numel()
        around = first.probe.site.around[:loops]
        inside = [entry for entry in wrong if entry.probe.site.around[:loops] == around]
        first = min(inside, key=lambda entry: entry.first_step(limit) * steps // max(len(entry.value), 1))
        if first.probe.site.loops == loops:
            break
    return first


def largest_ratio(value: Tensor, sampled: Sampled, dtype: torch.dtype) -> float:
    """Return the largest ratio of an element, as by `comparison.compare`; infinite for another shape."""
    exact = sampled.reference
    if value.shape != exact.shape:
        return math.inf
    if not exact.numel():
        return 0.0
    if not exact.is_floating_point():
        wrong = (value.double() - exact.double()).abs() > sampled.scale
        if sampled.pick is not None:
            wrong &= ~sampled.pick.may_be(value, exact)
        return math.inf if bool(wrong.any()) else 0.0
    return float(element_ratios(value, sampled, dtype)[0].max())
