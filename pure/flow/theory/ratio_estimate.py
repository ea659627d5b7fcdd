"""The ratio of two means over independent draws, with its interval."""

from __future__ import annotations

import math

from torch import Tensor

from pure.errors import ArgumentError
from pure.flow.shared.estimate import Estimate, student_t

__all__ = ["mean_ratio", "z_score"]


def mean_ratio(numerator: Tensor, denominator: Tensor, *, power: int = 1) -> Estimate:
    """Return mean(numerator) / mean(denominator)^power over independent draws, with its 95% interval.

    By the delta method: one draw's influence on the ratio is a_i/B^p − p (A/B^(p+1)) b_i, and its standard error is
    taken; numerator and denominator of one draw may depend on each other. The bias is of order 1/draws.

    Args:
        numerator: (draws,).
        denominator: (draws,).
        power: p.

    Raises:
        ArgumentError: shapes that differ, fewer than two draws, or a denominator of mean 0.

    Example:
        >>> print(mean_ratio(Tensor([2.0, 4.0, 6.0]), Tensor([1.0, 2.0, 3.0])))
        2 [2, 2]
    """
    if numerator.shape != denominator.shape or numerator.ndim != 1 or len(numerator) < 2:
        raise ArgumentError(
            f"mean_ratio of {tuple(numerator.shape)} and {tuple(denominator.shape)}: expected (draws,) twice, 2 or more"
        )
    a, b = numerator.double(), denominator.double()
    below = float(b.mean())
    if below == 0:
        raise ArgumentError("mean_ratio: the denominator's mean is 0, so there is no ratio")
    value = float(a.mean()) / below**power
    influence = a / below**power - power * value * b / below
    count = len(a)
    error = float(influence.std()) / math.sqrt(count)
    half = student_t(count - 1) * error
    return Estimate(value, value - half, value + half, error, count)


def z_score(estimate: Estimate, predicted: float) -> float:
    """Return by how many standard errors an estimate exceeds a prediction.

    Where the draws differ by rounding only, 0 if they equal the prediction to 6 digits, and infinite else.

    Example:
        >>> z_score(Estimate(1.5, 1.0, 2.0, 0.25, 100), 1.0)
        2.0
    """
    off = estimate.value - predicted
    if estimate.standard_error <= 1e-7 * abs(estimate.value):
        return 0.0 if abs(off) <= 1e-6 * abs(predicted) else math.copysign(math.inf, off)
    return off / estimate.standard_error
