"""Residual networks x ← γ x + α V relu(U x): moments of the Jacobian over the draw of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pure.errors import ArgumentError

__all__ = ["branch_gain", "mix_second_moment", "residual_fourth_moment", "residual_second_moment"]


def branch_gain(
    width: int, branch_width: int, in_variance: float | None = None, out_variance: float | None = None
) -> float:
    """Return g = E‖V D U u‖² = (n v_V)(m v_U / 2), what the branch V relu(U x) does to a squared gradient on average.

    Args:
        width: n, of the stream.
        branch_width: m, inside the branch.
        in_variance: v_U of U's entries; None is 2/m.
        out_variance: v_V of V's entries; None is 1/n. Both by default give g = 1.

    Example:
        >>> branch_gain(16, 64), branch_gain(16, 64, 1 / (3 * 16), 1 / (3 * 64)) * 18  # the second: torch.nn.Linear
        (1.0, 1.0)
    """
    v_in = 2 / branch_width if in_variance is None else in_variance
    v_out = 1 / width if out_variance is None else out_variance
    return width * v_out * branch_width * v_in / 2


def residual_second_moment(depth: int, alpha: float, gain: float = 1.0) -> float:
    """Return E‖Ju‖² = (1 + α² g)^L of L blocks x ← x + α V relu(U x): exact at every width.

    V has mean 0 and nothing before it depends on it, so that the stream and the branch are uncorrelated; the branch's
    share is α² g by the symmetry of U's rows. Independent symmetric entries are enough; symmetric biases are allowed.

    Args:
        depth: L.
        alpha: in front of the branch.
        gain: g, as `branch_gain` gives it.

    Source: Yang and Schoenholz 2017 (1712.08969) in the limit of infinite width; exact by the argument above.

    Example:
        >>> residual_second_moment(2, 0.5)
        1.5625
    """
    return (1 + alpha**2 * gain) ** depth


def residual_fourth_moment(depth: int, alpha: float, width: int, branch_width: int, gain: float = 1.0) -> float:
    """Return E‖Ju‖⁴ = (1 + 2a + 4a/n + a²(1 + 2/n)(1 + 5/m))^L with a = α² g: exact for Gaussian U and V.

    Args:
        depth: L.
        alpha: in front of the branch.
        width: n, of the stream.
        branch_width: m, inside the branch.
        gain: g, as `branch_gain` gives it.

    Source: derived here: the branch is Gaussian given what is below V, and its length has the plain layer's moments.

    Example:
        >>> round(residual_fourth_moment(1, 1.0, 10**9, 10**9), 6)
        4.0
    """
    a = alpha**2 * gain
    return (1 + 2 * a + 4 * a / width + a**2 * (1 + 2 / width) * (1 + 5 / branch_width)) ** depth


def mix_second_moment(carries: Sequence[float], scales: Sequence[float], gain: float = 0.5) -> float:
    """Return E‖Ju‖² = Π (γ₁² + γ₂² g) of blocks x ← γ₁ x + γ₂ V relu(U x): exact at every width.

    With γ₁² + γ₂² = 1, U of variance 1/m and V of variance 1/n the gain is ½; γ₁² = 1 − 1/L then tends to e^(−½).

    Args:
        carries: γ₁ of every block.
        scales: γ₂ of every block.
        gain: g of every branch.

    Raises:
        ArgumentError: another number of carries than of scales.

    Source: the constant-gate case of Srivastava et al. 2015 (1505.00387), equation 3; Balduzzi et al. 2017
        (1702.08591) for highway networks with γ₁² + γ₂² = 1.

    Example:
        >>> L = 10_000
        >>> round(mix_second_moment([(1 - 1 / L) ** 0.5] * L, [L**-0.5] * L) * math.exp(0.5), 4)
        1.0
    """
    if len(carries) != len(scales):
        raise ArgumentError(f"{len(carries)} carries and {len(scales)} scales: expected one of each a block")
    return math.prod(carry**2 + scale**2 * gain for carry, scale in zip(carries, scales, strict=True))
