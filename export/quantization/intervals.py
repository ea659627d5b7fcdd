"""Intervals of counted proportions, and McNemar's exact test for two classifiers on the same samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

__all__ = ["McNemar", "clopper_pearson", "mcnemar", "wilson"]

CONFIDENCE = 0.95
_NORMAL = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion (Wilson 1927); (0, 1) without trials.

    >>> low, high = wilson(95, 100)
    >>> round(low, 4), round(high, 4)
    (0.8882, 0.9785)
    """
    if not trials:
        return 0.0, 1.0
    share, square = successes / trials, _NORMAL**2
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = _NORMAL / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == trials else middle + half
    return low, high


def clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a proportion (Clopper and Pearson 1934); (0, 1) without trials.

    >>> low, high = clopper_pearson(8, 10)
    >>> round(low, 4), round(high, 4)
    (0.4439, 0.9748)
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = 0.0, 1.0
    if successes > 0:
        low = _root(lambda p: 1 - _at_most(successes - 1, trials, p) - tail)
    if successes < trials:
        high = _root(lambda p: tail - _at_most(successes, trials, p))
    return low, high


@dataclasses.dataclass(frozen=True)
class McNemar:
    """Two classifiers on the same samples, of which only those that one alone reads rightly say anything.

    Attributes:
        lost: samples that the first alone reads rightly.
        gained: samples that the second alone reads rightly.
        p: the chance of a split at least as uneven if both were equally good (two-sided, exact).
        change: the second's accuracy less the first's.
        low: lower end of the exact 95 % interval of the change, given how many samples they differ on.
        high: its upper end.
    """

    lost: int
    gained: int
    p: float
    change: float
    low: float
    high: float


def mcnemar(lost: int, gained: int, samples: int) -> McNemar:
    """Compare two classifiers by the samples that only one of them reads rightly (McNemar 1947, exact).

    >>> found = mcnemar(lost=8, gained=2, samples=100)
    >>> round(found.p, 4), found.change
    (0.1094, -0.06)
    """
    discordant = lost + gained
    p = min(1.0, 2 * _at_most(min(lost, gained), discordant, 0.5)) if discordant else 1.0
    low, high = clopper_pearson(gained, discordant)
    part = discordant / samples if samples else 0.0
    change = (gained - lost) / samples if samples else 0.0
    return McNemar(lost, gained, p, change, part * (2 * low - 1), part * (2 * high - 1))


def _at_most(successes: int, trials: int, p: float) -> float:
    """Return the chance of at most so many successes."""
    if p <= 0 or successes >= trials:
        return 1.0
    if p >= 1:
        return 0.0
    logs = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(p) + (trials - k) * math.log1p(-p)
        for k in range(successes + 1)
    ]  # fmt: skip
    return min(1.0, math.fsum(math.exp(value) for value in logs))


def _root(rising: Callable[[float], float]) -> float:
    """Return where a rising function of (0, 1) crosses 0, to the last bit that a float has room for."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return middle
