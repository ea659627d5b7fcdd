"""What noisy runs say of values: references, rounding scales, and the sums that scales are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from export.verdict.decisions import Decision, Pick

__all__ = ["Sampled", "Scales", "Spread"]


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


@dataclasses.dataclass(frozen=True)
class Scales:
    """The outputs of a recorded graph with their rounding scales.

    Attributes:
        outputs: one entry an output.
        decisions: every operator that decides by value, by key.
        branches: {condition: branches taken, one an execution}.
        lifted: lines of source whose casts to a narrower dtype the reference does not make.
        values: the same as `outputs` for every operator's tensor, by key, where asked for.
    """

    outputs: tuple[Sampled, ...]
    decisions: dict[str, Decision]
    branches: dict[str, list[bool]]
    lifted: tuple[str, ...] = ()
    values: dict[str, Sampled] = dataclasses.field(default_factory=dict)


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
            change = (value.double() - exact.double()).square()
            change = torch.where(change.isfinite(), change, torch.zeros_like(change))
            known = self.totals.get(key, torch.zeros_like(change))
            self.totals[key] = known + change if exact.is_floating_point() else torch.maximum(known, change)

    def scale(self, key: Any, reference: Tensor) -> Tensor:
        """Return the root mean square of a float's changes; for others the largest change."""
        total = self.totals.get(key)
        if total is None:
            return torch.zeros(reference.shape, dtype=torch.float64, device=reference.device)
        return (total / self.runs).sqrt() if reference.is_floating_point() else total.sqrt()
