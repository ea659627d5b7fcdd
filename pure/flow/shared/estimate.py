"""Means over random probes or independent draws, with 95% intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from pure.errors import ArgumentError
from pure.flow.shared.result import PlainData

__all__ = ["Estimate", "estimate", "half_width", "ratio", "student_t"]

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate(PlainData):
    """A mean over independent random probes, and Student's t interval for what it estimates.

    Attributes:
        value: the mean.
        low: lower end of the 95% interval.
        high: its upper end.
        standard_error: of the mean.
        probes: how many independent values were averaged; 0 where the number is exact.
    """

    value: float
    low: float
    high: float
    standard_error: float
    probes: int

    def __float__(self) -> float:
        return self.value

    def __contains__(self, value: float) -> bool:
        """Whether the interval holds `value`."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]" if self.probes else f"{self.value:.4g} (exact)"


def estimate(samples: Tensor) -> Estimate:
    """Return the mean of independent values with Student's t interval.

    Args:
        samples: (probes,), at least two. The interval holds for values near a normal law; many probes mend a skew.

    Raises:
        ArgumentError: fewer than two values, which have no spread.

    Example:
        >>> import torch
        >>> print(estimate(torch.tensor([1.0, 2.0, 3.0])))
        2 [-0.4841, 4.484]
    """
    if samples.ndim != 1 or len(samples) < 2:
        raise ArgumentError(f"an interval from values of shape {tuple(samples.shape)}: expected at least 2 probes")
    mean = float(samples.double().mean())
    half = float(half_width(samples))
    error = float(samples.double().std()) / math.sqrt(len(samples))
    return Estimate(mean, mean - half, mean + half, error, len(samples))


def ratio(second: Tensor, first: Tensor) -> Estimate:
    """Return mean(second) / mean(first)² with its interval, corrected for bias, by the jackknife over pairs of values.

    A single pair counts as exact.

    Args:
        second: (probes,).
        first: (probes,), from the same probes.

    Source: Tukey 1958; Miller 1974, The jackknife.

    Example:
        >>> import torch
        >>> print(ratio(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 1.0])))
        2 [2, 2]
    """
    second, first = second.double(), first.double()
    count = len(first)
    whole = second.mean() / first.mean().square()
    if count == 1:
        return Estimate(float(whole), float(whole), float(whole), 0.0, 0)
    others = count - 1
    left_out = (second.sum() - second) / others / ((first.sum() - first) / others).square()
    return estimate(count * whole - others * left_out)


def half_width(samples: Tensor) -> Tensor:
    """Return half the width of the 95% interval of the mean over axis 0, in float64."""
    count = len(samples)
    return samples.double().std(0) * (student_t(count - 1) / math.sqrt(count))


@lru_cache(maxsize=256)
def student_t(freedom: int, level: float = LEVEL) -> float:
    """Return the two-sided quantile of Student's t: P(|t| ≤ quantile) = level.

    Source: Abramowitz and Stegun 1964, equations 26.7.3 and 26.7.4: finite sums in the angle atan(t / √freedom).

    Example:
        >>> round(student_t(1), 3), round(student_t(10), 3), round(student_t(10**6), 3)
        (12.706, 2.228, 1.96)
    """
    if freedom > 10_000:  # the sum would be long, and the next term of Fisher's expansion is below 1e-8
        z = student_t(10_000) if level != LEVEL else 1.959963984540054
        return z + (z**3 + z) / (4 * freedom)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < level else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(freedom)


def _inside(angle: float, freedom: int) -> float:
    """Return P(|t| ≤ √freedom · tan angle)."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for index in range(freedom // 2):
        total += term
        step = 2 * index + 1 + odd
        term *= math.cos(angle) ** 2 * step / (step + 1)
    return (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total
