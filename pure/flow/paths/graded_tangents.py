"""Tangents or cotangents graded by path length: one row for each number of branches passed, on a logarithmic scale.

A row is `values[row] · 2^exponents[row]`, so that ten thousand blocks neither overflow nor vanish. The rows come in
groups of K + 1, one row for each number of branches; a last row, which counts nothing, may hold the whole derivative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pure.errors import UnsupportedError
from pure.flow.shared.log_scale import times_power

__all__ = ["GradedTangents", "aligned", "start"]

ZERO = -(2**40)
"""The exponent of a row of zeros: below that of every other row."""

MAX_PLAIN_EXPONENT = 500
"""Results are given as they are while their largest norm is within 2^±500, whose square float64 holds too."""

RESCALE_EXPONENT = 8
"""A row is rescaled once its norm leaves 2^±8."""


@dataclass(frozen=True, eq=False)
class GradedTangents:
    """Rows of one shape.

    Attributes:
        values: (rows, *shape).
        exponents: (rows,), whole numbers in float64.
        groups: how many groups of rows are counted.
        length: rows of each group, the orders 0 … K.
    """

    values: Tensor
    exponents: Tensor
    groups: int
    length: int

    @property
    def counted(self) -> int:
        """How many rows are counted; those behind them hold the whole derivative."""
        return self.groups * self.length

    def passed(self, signs: Tensor | None = None) -> GradedTangents:
        """Return the rows one order further, as behind a branch; what leaves the highest order is dropped.

        Args:
            signs: (groups,), a factor for each group.
        """
        rows = self.values[: self.counted].unflatten(0, (self.groups, self.length))
        exponents = self.exponents[: self.counted].unflatten(0, (self.groups, self.length))
        values = torch.zeros_like(self.values)
        moved = rows[:, :-1] if signs is None else rows[:, :-1] * _over(signs.to(rows.dtype), rows.ndim)
        values[: self.counted].unflatten(0, (self.groups, self.length))[:, 1:] = moved
        values[self.counted :] = self.values[self.counted :]
        shifted = torch.full_like(self.exponents, ZERO)
        shifted[: self.counted].unflatten(0, (self.groups, self.length))[:, 1:] = exponents[:, :-1]
        shifted[self.counted :] = self.exponents[self.counted :]
        return replace(self, values=values, exponents=shifted)

    def without(self, group: int) -> GradedTangents:
        """Return the rows with those of one group zero."""
        values, exponents = self.values.clone(), self.exponents.clone()
        values[group * self.length : (group + 1) * self.length] = 0
        exponents[group * self.length : (group + 1) * self.length] = ZERO
        return replace(self, values=values, exponents=exponents)

    def rescaled(self) -> GradedTangents:
        """Return the same rows with norms near 1; zeros and what is not finite stay as they are."""
        norms = torch.linalg.vector_norm(self.values.reshape(len(self.values), -1), dim=1, dtype=torch.float64)
        shift = torch.frexp(norms).exponent.to(torch.float64)
        shift = torch.where((shift.abs() > RESCALE_EXPONENT) & norms.isfinite(), shift, 0.0)
        exponents = torch.where(norms == 0, ZERO, self.exponents + shift)
        return replace(self, values=times_power(self.values, -shift), exponents=exponents)

    def bounds(self) -> tuple[Tensor, int]:
        """Return log₂ of the rows' norms, and the power of two to take out: 0 unless they leave 2^±500.

        Raises:
            UnsupportedError: a row is NaN or infinite.
        """
        norms = torch.linalg.vector_norm(self.values.reshape(len(self.values), -1), dim=1, dtype=torch.float64)
        if not norms.isfinite().all():
            raise UnsupportedError(
                f"the derivative of one segment overflows {self.values.dtype} or is not a number: give "
                "dtype=torch.float64, or look for a division by 0, a root of 0 or a log of 0 (pure.capture shows them)"
            )
        logs = norms.log2() + self.exponents
        largest = float(logs.max())
        return logs, math.ceil(largest) if MAX_PLAIN_EXPONENT < abs(largest) < math.inf else 0

    def add(self, other: GradedTangents) -> GradedTangents:
        """Return the sum."""
        (mine, others), exponents = aligned([self, other])
        return replace(self, values=mine + others, exponents=exponents)


def start(v: Tensor, orders: int, groups: int, whole: bool) -> GradedTangents:
    """Return the stack at the start of every path: `v` in order 0 of each group and in the whole derivative."""
    length = orders + 1
    rows = groups * length + whole
    values = v.new_zeros(rows, *v.shape)
    exponents = torch.full((rows,), ZERO, dtype=torch.float64, device=v.device)
    firsts = [group * length for group in range(groups)] + ([rows - 1] if whole else [])
    values[firsts] = v
    exponents[firsts] = 0
    return GradedTangents(values, exponents, groups, length).rescaled()


def aligned(stacks: Sequence[GradedTangents]) -> tuple[list[Tensor], Tensor]:
    """Return the values of the stacks at common exponents, and those."""
    if len(stacks) == 1:
        return [stacks[0].values], stacks[0].exponents
    exponents = torch.stack([stack.exponents for stack in stacks]).amax(0)
    return [times_power(stack.values, stack.exponents - exponents) for stack in stacks], exponents


def _over(factors: Tensor, ndim: int) -> Tensor:
    """Return the factors with axes behind them up to `ndim`."""
    return factors.reshape(-1, *[1] * (ndim - 1))
