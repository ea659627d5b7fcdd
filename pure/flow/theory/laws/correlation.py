"""Gradients at two inputs: arc-cosine maps, and how fast the correlation of the gradients falls with depth."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = [
    "arc_cosine_0",
    "arc_cosine_1",
    "batch_norm_correlation",
    "plain_angles",
    "plain_correlation",
    "residual_angles",
    "residual_correlation",
]


def arc_cosine_0(angle: float) -> float:
    """Return κ₀(θ) = 1 − θ/π = 2 P(both gates open), for inputs at the angle θ in radians.

    Source: Cho and Saul 2009, Kernel methods for deep learning, the map of order 0.

    Example:
        >>> arc_cosine_0(0.0), arc_cosine_0(math.pi / 2)
        (1.0, 0.5)
    """
    return 1 - angle / math.pi


def arc_cosine_1(angle: float) -> float:
    """Return κ₁(θ) = (sin θ + (π − θ) cos θ)/π, the cosine between relu(Wx) and relu(Wx′) at infinite width.

    Source: Cho and Saul 2009, Kernel methods for deep learning, the map of order 1.

    Example:
        >>> arc_cosine_1(0.0), round(arc_cosine_1(math.pi / 2) * math.pi, 12)
        (1.0, 1.0)
    """
    return (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / math.pi


def plain_angles(angle: float, depth: int) -> list[float]:
    """Return θ_0, …, θ_{L−1}, the angles in front of each layer x ← relu(W x): θ ← arccos κ₁(θ), infinite width.

    Args:
        angle: θ_0 of the two inputs, in radians.
        depth: L.

    Example:
        >>> [round(theta, 3) for theta in plain_angles(math.pi / 2, 3)]
        [1.571, 1.247, 1.054]
    """
    return _angles(angle, [0.0] * depth, [1.0] * depth)


def residual_angles(angle: float, gains: Sequence[float]) -> list[float]:
    """Return the angles in front of each block x ← x + α V relu(U x): cos θ ← (cos θ + a κ₁(θ))/(1 + a).

    Args:
        angle: θ_0 of the two inputs, in radians.
        gains: a = α² g of every block.

    Source: Yang and Schoenholz 2017 (1712.08969), recurrences for ReLU residual networks.
    """
    return _angles(angle, [1.0] * len(gains), gains)


def plain_correlation(angle: float, depth: int) -> float:
    """Return E⟨J(x)u, J(x′)u⟩ / E‖Ju‖² = Π (1 − θ_l/π) of a plain He-ReLU network, infinite width.

    It is not 2^(−L): the angle shrinks with depth, so that two inputs share ever more gates. 2^(−L) holds only where
    every layer sees its inputs at a right angle. At finite width the bias is large: depth up to width/40.

    Args:
        angle: between the two inputs, in radians.
        depth: L.

    Source: Balduzzi et al. 2017 (1702.08591), whose 2^(−L) takes the gates as independent at every layer;
        here with the angle map of Cho and Saul 2009.

    Example:
        >>> round(plain_correlation(math.pi / 2, 10) * 2**10, 1)
        34.5
    """
    return math.prod(arc_cosine_0(theta) for theta in plain_angles(angle, depth))


def residual_correlation(angle: float, gains: Sequence[float]) -> float:
    """Return E⟨J(x)u, J(x′)u⟩ / E‖Ju‖² = Π (1 + a κ₀(θ_l))/(1 + a) of blocks x ← x + α V relu(U x), infinite width.

    Args:
        angle: between the two inputs, in radians.
        gains: a = α² g of every block.

    Source: Balduzzi et al. 2017 (1702.08591); Yang and Schoenholz 2017 (1712.08969), for the recursion.

    Example:
        >>> residual_correlation(math.pi / 2, [1.0])
        0.75
    """
    angles = residual_angles(angle, gains)
    return math.prod((1 + a * arc_cosine_0(theta)) / (1 + a) for a, theta in zip(gains, angles, strict=True))


def batch_norm_correlation(depth: int) -> float:
    """Return Γ(L + 3/2) Γ(2) / (Γ(3/2) Γ(L + 2)) = Π (l + ½)/(l + 1), which tends to (2/√π)/√L.

    An idealisation: batch normalisation gives branch l the share 1/l of the stream's variance, and gates of two inputs
    open independently, both together with probability ¼. It describes no network exactly.

    Args:
        depth: L.

    Source: Balduzzi et al. 2017 (1702.08591), the decay 1/√L of normalised residual networks.

    Example:
        >>> round(batch_norm_correlation(1), 12), round(batch_norm_correlation(10**6) * 1e3, 4)
        (0.75, 1.1284)
    """
    return math.exp(math.lgamma(depth + 1.5) - math.lgamma(1.5) - math.lgamma(depth + 2))


def _angles(angle: float, carries: Sequence[float], gains: Sequence[float]) -> list[float]:
    angles = []
    cosine = math.cos(angle)
    for carry, gain in zip(carries, gains, strict=True):
        angles.append(math.acos(max(-1.0, min(1.0, cosine))))
        cosine = (carry * cosine + gain * arc_cosine_1(angles[-1])) / (carry + gain)
    return angles
