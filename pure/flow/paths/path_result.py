"""The result of splitting a derivative by path length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from pure.flow.paths.branch_counting import Count, Routes
from pure.flow.paths.graded_tangents import GradedTangents
from pure.flow.shared.log_scale import times_power
from pure.flow.shared.over_ranks import Whole
from pure.flow.shared.result import Readings
from pure.flow.shared.text_table import table

__all__ = ["PathSpectrum", "of_all_ranks", "spectrum_of"]

Mode = Literal["forward", "reverse"]
EXPONENT_BOUND = 2.0**40
"""Beyond any exponent of a derivative."""


@dataclass(frozen=True, eq=False)
class PathSpectrum(Readings[int, float]):
    """A derivative as the sum of its parts by path length. As a mapping: {branches passed: L2 norm of that part}.

    All tensors are float64. They are to be multiplied by 2^`exponent`, which is 0 unless the norms leave 2^±500.

    Attributes:
        components: (K + 1, *shape); `components[k]` passed through exactly k branches.
        remainder: the whole less the sum of the components: what passed through more than K branches.
        whole: J v, or the gradient, computed beside its parts.
        norms: (K + 1,), L2 norms of the components.
        shares: (K + 1,), their squares divided by the squares' sum.
        mean_path_length: Σ k · shares[k], in branches.
        paths: how many paths pass through k branches; C(L, k) for L residual blocks in a row.
        labels: paths of the tagged branches that were counted, in the order of computation.
        through_gates: (K + 1, *shape), the part of each component that took the derivative of at least one gate;
            None where no counted branch's block tags a gate. For one highway layer the carry is `components[0]`, the
            transform `components[1] - through_gates[1]` and the gate's derivative `through_gates[1]`.
        exponent: see above.
        mode: "forward" for J v, "reverse" for a gradient.
        count: how nested branches were counted.
    """

    components: Tensor
    remainder: Tensor
    whole: Tensor
    norms: Tensor
    shares: Tensor
    mean_path_length: float
    paths: tuple[int, ...]
    labels: tuple[str, ...]
    through_gates: Tensor | None
    exponent: int
    mode: Mode
    count: Count

    @cached_property
    def _readings(self) -> Mapping[int, float]:
        return dict(enumerate(self.norms.tolist()))

    def __repr__(self) -> str:
        return (
            f"PathSpectrum({len(self.labels)} branches, orders 0 to {len(self) - 1}, "
            f"mean path length {self.mean_path_length:.4g})"
        )

    def table(self) -> str:
        """Return a plain text table: how many paths, the norm and the share of each order, then the remainder."""
        rows: list[list[Any]] = [
            [str(k), paths, norm, share]
            for k, (paths, norm, share) in enumerate(
                zip(self.paths, self.norms.tolist(), self.shares.tolist(), strict=True)
            )
        ]
        rows.append(["more", "", _norm(self.remainder), ""])
        return table(["branches", "paths", "l2" + self._unit, "share"], rows)

    @property
    def _unit(self) -> str:
        return f" / 2^{self.exponent}" if self.exponent else ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON; the components by their norms alone."""
        return {
            "norms": self.norms.tolist(),
            "shares": self.shares.tolist(),
            "paths": list(self.paths),
            "remainder_norm": _norm(self.remainder),
            "whole_norm": _norm(self.whole),
            "mean_path_length": self.mean_path_length,
            "labels": list(self.labels),
            "exponent": self.exponent,
            "mode": self.mode,
            "count": self.count,
        }


def spectrum_of(stack: GradedTangents, ways: Routes, mode: Mode, count: Count) -> PathSpectrum:
    """Return the result that a stack holds behind its last segment."""
    logs, exponent = stack.bounds()
    values = times_power(stack.values.double(), stack.exponents - exponent)
    length = stack.length
    components, whole = values[:length], values[-1]
    relative = torch.exp2(2 * (logs[:length] - logs[:length].max())) if logs[:length].max() > -math.inf else None
    shares = torch.zeros_like(logs[:length]) if relative is None else relative / relative.sum()
    gates = components - values[length : 2 * length] if stack.groups == 2 else None
    return PathSpectrum(
        components=components,
        remainder=whole - components.sum(0),
        whole=whole,
        norms=torch.exp2(logs[:length] - exponent),
        shares=shares,
        mean_path_length=float((shares * torch.arange(length, device=shares.device)).sum()),
        paths=ways.paths,
        labels=ways.labels,
        through_gates=gates,
        exponent=exponent,
        mode=mode,
        count=count,
    )


def of_all_ranks(own: PathSpectrum, whole: Whole) -> PathSpectrum:
    """Return the result whose samples, along axis 0 of the derivative, are those of all ranks."""
    if whole.ranks is None:
        return own
    exponents = [number - EXPONENT_BOUND for number in whole.numbers(own.exponent + EXPONENT_BOUND, "exponents")]
    exponent = int(max(exponents))

    def rows(value: Tensor, of: str, axis: int) -> Tensor:
        return whole.rows(torch.ldexp(value, torch.tensor(own.exponent - exponent)), of, axis)

    components = rows(own.components, "components", 1)
    norms = torch.linalg.vector_norm(components.flatten(1), dim=1)
    largest = norms.max()
    squares = (norms / largest).square() if largest > 0 else torch.zeros_like(norms)
    shares = squares / squares.sum() if largest > 0 else squares
    return replace(
        own,
        components=components,
        remainder=rows(own.remainder, "the remainder", 0),
        whole=rows(own.whole, "the whole", 0),
        norms=norms,
        shares=shares,
        mean_path_length=float((shares * torch.arange(len(shares), device=shares.device)).sum()),
        through_gates=None if own.through_gates is None else rows(own.through_gates, "gates", 1),
        exponent=exponent,
    )


def _norm(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(value, dtype=torch.float64))
