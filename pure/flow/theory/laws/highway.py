"""Highway layers x ← T ⊙ relu(W x + b) + (1 − T) ⊙ x, T = σ(W′x + b′): mean-field moments at infinite width."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["HighwayStep", "gate_moments", "highway_step"]

NODES = 80


@dataclass(frozen=True)
class HighwayStep:
    """What one highway layer does on average.

    Attributes:
        mean: of a feature of the stream behind it.
        mean_square: of a feature of the stream behind it.
        carry: E(1 − T)², the share of a squared gradient that the carry passes.
        transform: E T² · n v / 2, the share of the transform.
        gate: E[(T(1 − T))²] E(h − x)² · n v′, the share that goes through the gate's own derivative.
    """

    mean: float
    mean_square: float
    carry: float
    transform: float
    gate: float

    @property
    def total(self) -> float:
        """E‖Ju‖² of the layer for an isotropic u: the three shares are uncorrelated."""
        return self.carry + self.transform + self.gate


def gate_moments(bias: float, variance: float) -> dict[str, float]:
    """Return the moments of T = σ(z), z ~ N(bias, variance), that a highway layer needs, by Gauss–Hermite quadrature.

    Args:
        bias: mean of z.
        variance: of z.

    Returns:
        E T, E T², E(1 − T)², E T(1 − T) and E(T(1 − T))², as "T", "TT", "CC", "TC", "TCTC".

    Example:
        >>> round(gate_moments(0.0, 0.0)["TC"], 12), round(gate_moments(-2.0, 1.0)["T"], 4)
        (0.25, 0.1555)
    """
    nodes, weights = _hermite()
    t = torch.sigmoid(bias + math.sqrt(variance) * nodes)
    parts = {"T": t, "TT": t * t, "CC": (1 - t) ** 2, "TC": t * (1 - t), "TCTC": (t * (1 - t)) ** 2}
    return {name: float(weights @ part) for name, part in parts.items()}


@lru_cache(maxsize=1)
def _hermite() -> tuple[Tensor, Tensor]:
    """Return nodes and weights for the standard normal law, from the eigenvectors of the Jacobi matrix.

    Source: Golub and Welsch 1969, Calculation of Gauss quadrature rules.
    """
    off = torch.arange(1, NODES, dtype=torch.float64).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, vectors[0] ** 2


def highway_step(
    mean: float,
    mean_square: float,
    width: int,
    *,
    gate_bias: float,
    gate_variance: float,
    variance: float,
    noise: float = 0.0,
    gate_noise: float = 0.0,
) -> HighwayStep:
    """Return what a highway layer with a ReLU transform does, at infinite width.

    Gate, transform and stream are independent at each feature, because W and W′ are: so every mean factorises.

    Args:
        mean: of a feature of the stream in front of it.
        mean_square: the same for the square.
        width: n.
        gate_bias: mean of b′.
        gate_variance: v′ of the entries of W′.
        variance: v of the entries of W.
        noise: variance of b.
        gate_noise: variance of b′.

    Source: derived here; the layer is Srivastava et al. 2015 (1505.00387), equation 3.

    Example:
        >>> step = highway_step(0.0, 1.0, 100, gate_bias=-30.0, gate_variance=0.01, variance=0.02)
        >>> round(step.total, 9), round(step.mean_square, 9)
        (1.0, 1.0)
    """
    t = gate_moments(gate_bias, width * gate_variance * mean_square + gate_noise)
    pre = width * variance * mean_square + noise
    h_mean, h_square = math.sqrt(pre / (2 * math.pi)), pre / 2
    cross = 2 * t["TC"] * mean * h_mean
    apart = h_square - 2 * h_mean * mean + mean_square
    return HighwayStep(
        mean=(1 - t["T"]) * mean + t["T"] * h_mean,
        mean_square=t["CC"] * mean_square + cross + t["TT"] * h_square,
        carry=t["CC"],
        transform=t["TT"] * width * variance / 2,
        gate=t["TCTC"] * apart * width * gate_variance,
    )
