"""Growth or decay by depth as factor^depth, with its interval and a test for an exponential."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from pure.flow.shared.estimate import estimate

__all__ = ["Growth", "growth"]

MOST_APART: Final = 2
"""The most steps that stand apart: more of them are the growth itself."""
FEWEST_KEPT: Final = 5
"""The fewest steps that must be left for the fit."""
MAX_DEVIATIONS: Final = 6.0
"""Standard deviations of the other steps within which a step belongs to them."""
NORMAL_FROM_MEDIAN: Final = 1.4826
"""Standard deviation over the median absolute deviation, for normal values."""
LOG10_SAME: Final = 0.01
"""A change of a step's log10 that is never taken apart: 2.3%."""


@dataclass(frozen=True)
class Growth:
    """A quantity by depth, fitted as factor^depth.

    The steps of its logarithm are averaged, so the interval is that of a random walk with drift, which such products
    are; a line fitted through the points would claim too much. One or two steps far outside the others', such as the
    one from the stem to the first block, are left out of the average and listed on their own.

    Attributes:
        factor: by which it changes from one block to the next.
        low: lower end of the factor's 95% interval.
        high: upper end.
        log10_total: log10 of the last over the first, with every step.
        log10_slower_half: without the steps apart, the smaller change of the two halves, from first to middle and from
            middle to last; 0 where they go opposite ways. A power l^p has at most p · 0.30 here at any depth, an
            exponential half of the total.
        blocks: how many steps the factor is fitted to.
        apart: (step, log10 of its change) of each step that is left out; step i leads from depth i to i + 1 of what
            was given.
    """

    factor: float
    low: float
    high: float
    log10_total: float
    log10_slower_half: float
    blocks: int
    apart: tuple[tuple[int, float], ...] = ()

    @property
    def exponential(self) -> bool:
        """Whether either half alone grows or decays fivefold, more than l² can, and the interval excludes 1."""
        return abs(self.log10_slower_half) > math.log10(5) and not self.low <= 1 <= self.high

    def __str__(self) -> str:
        fit = f"{self.factor:.4g}^L over {self.blocks} blocks (95% interval {self.low:.4g} to {self.high:.4g})"
        apart = ", ".join(f"{_power(change):.3g} at step {step + 1}" for step, change in self.apart)
        return f"{fit}, apart from a factor of {apart}" if apart else fit


def growth(logs: Sequence[float]) -> Growth | None:
    """Return the growth of a quantity given as log10 by depth; None for fewer than 3 values or ones not finite.

    Args:
        logs: log10 at depth 0, 1, ….

    Example:
        >>> found = growth([0.0, 0.31, 0.60, 0.90, 1.21, 1.50, 1.80])
        >>> print(found, found.exponential)
        1.995^L over 6 blocks (95% interval 1.953 to 2.039) True
        >>> print(growth([0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
        1^L over 5 blocks (95% interval 1 to 1), apart from a factor of 0.316 at step 1
    """
    if len(logs) < 3 or not all(map(math.isfinite, logs)):
        return None
    steps = torch.tensor(logs, dtype=torch.float64).diff()
    outside = _outside(steps)
    kept = steps[~outside]
    step = estimate(kept)
    path = torch.cat([kept.new_zeros(1), kept.cumsum(0)]).tolist()
    middle = path[len(path) // 2]
    halves = (middle, path[-1] - middle)
    slower = min(halves, key=abs) if halves[0] * halves[1] > 0 else 0.0
    factor, low, high = (_power(end) for end in (step.value, step.low, step.high))
    apart = tuple((int(at), float(steps[at])) for at in outside.nonzero().flatten())
    return Growth(factor, low, high, logs[-1] - logs[0], slower, len(kept), apart)


def _outside(steps: Tensor) -> Tensor:
    """Return which steps stand apart: one or two, outside the median by `MAX_DEVIATIONS` of the others' deviation."""
    middle = steps.median()
    deviation = (steps - middle).abs()
    bound = max(LOG10_SAME, MAX_DEVIATIONS * NORMAL_FROM_MEDIAN * float(deviation.median()))
    outside = deviation > bound
    count = int(outside.sum())
    few = count <= MOST_APART and len(steps) - count >= FEWEST_KEPT
    return outside if few else torch.zeros_like(outside)


def _power(exponent: float) -> float:
    return 10.0**exponent if exponent < 300 else math.inf
