"""Growth or decay by depth as factor^depth, with its interval and a test for an exponential."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pure.flow.shared.estimate import estimate

__all__ = ["Growth", "growth"]


@dataclass(frozen=True)
class Growth:
    """A quantity by depth, fitted as factor^depth.

    The steps of its logarithm are averaged, so the interval is that of a random walk with drift, which such products
    are; a line fitted through the points would claim too much.

    Attributes:
        factor: by which it changes from one block to the next.
        low: lower end of the factor's 95% interval.
        high: upper end.
        log10_total: log10 of the last over the first.
        log10_slower_half: the smaller change of the two halves, from first to middle and from middle to last; 0 where
            they go opposite ways. A power l^p has at most p · 0.30 here at any depth, an exponential half of the total.
        blocks: how many steps there are.
    """

    factor: float
    low: float
    high: float
    log10_total: float
    log10_slower_half: float
    blocks: int

    @property
    def exponential(self) -> bool:
        """Whether either half alone grows or decays fivefold, more than l² can, and the interval excludes 1."""
        return abs(self.log10_slower_half) > math.log10(5) and not self.low <= 1 <= self.high

    def __str__(self) -> str:
        return f"{self.factor:.4g}^L over {self.blocks} blocks (95% interval {self.low:.4g} to {self.high:.4g})"


def growth(logs: Sequence[float]) -> Growth | None:
    """Return the growth of a quantity given as log10 by depth; None for fewer than 3 values or ones not finite.

    Args:
        logs: log10 at depth 0, 1, ….

    Example:
        >>> found = growth([0.0, 0.31, 0.60, 0.90, 1.21, 1.50, 1.80])
        >>> print(found, found.exponential)
        1.995^L over 6 blocks (95% interval 1.953 to 2.039) True
    """
    if len(logs) < 3 or not all(map(math.isfinite, logs)):
        return None
    values = torch.tensor(logs, dtype=torch.float64)
    step = estimate(values.diff())
    middle = logs[len(logs) // 2]
    halves = (middle - logs[0], logs[-1] - middle)
    slower = min(halves, key=abs) if halves[0] * halves[1] > 0 else 0.0
    factor, low, high = (_power(end) for end in (step.value, step.low, step.high))
    return Growth(factor, low, high, logs[-1] - logs[0], slower, len(logs) - 1)


def _power(exponent: float) -> float:
    return 10.0**exponent if exponent < 300 else math.inf
