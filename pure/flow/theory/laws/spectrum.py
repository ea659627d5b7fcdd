"""Spectra of JᵀJ at infinite width, from their S-transforms: moments, edges and the whole limiting density.

S-transforms of free factors multiply, and J's layers are free of each other where each has its own weights in front of
its gates. With S the product, moments m_k, their generating function ψ(y) = Σ m_k y^k solves y = ψ/(1 + ψ) · S(ψ), so
that Lagrange's inversion gives m_k = (1/k) [z^(k−1)] ((1 + z)/S(z))^k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pure.errors import ArgumentError

__all__ = [
    "gaussian_product_density",
    "gaussian_product_edge",
    "plain_spectrum_ratio",
    "residual_limit_density",
    "residual_limit_edges",
    "residual_limit_moment",
    "residual_spectrum_ratio",
]

Ensemble = Literal["gaussian linear", "gaussian relu", "orthogonal relu"]


def plain_spectrum_ratio(depth: int, ensemble: Ensemble) -> float:
    """Return m₂/m₁² of a plain network of equal widths, infinite width.

    L + 1 for Gaussian linear layers, 2L + 1 for Gaussian ReLU layers, L + 1 for orthogonal ReLU layers: a layer adds
    1, 2 and 1. Half of a ReLU layer's rows are closed, which doubles what a Gaussian layer adds.

    Args:
        depth: L.
        ensemble: which.

    Raises:
        ArgumentError: another ensemble.

    Source: Pennington et al. 2017 (1711.04735) and 2018 (1802.09979).

    Example:
        >>> [plain_spectrum_ratio(10, kind) for kind in ("gaussian linear", "gaussian relu", "orthogonal relu")]
        [11.0, 21.0, 11.0]
    """
    added = {"gaussian linear": 1.0, "gaussian relu": 2.0, "orthogonal relu": 1.0}
    if ensemble not in added:
        raise ArgumentError(f"plain_spectrum_ratio of {ensemble!r}: expected one of {', '.join(map(repr, added))}")
    return 1 + depth * added[ensemble]


def gaussian_product_edge(depth: int) -> float:
    """Return the upper edge (L + 1)^(L+1) / L^L of the spectrum of JᵀJ, J a product of L square Gaussian matrices.

    Args:
        depth: L.

    Source: Fuss and Catalan's law; Banica et al. 2011 (0710.5931), free Bessel laws.

    Example:
        >>> gaussian_product_edge(1), gaussian_product_edge(2)
        (4.0, 6.75)
    """
    return (depth + 1) ** (depth + 1) / depth**depth


def gaussian_product_density(depth: int, points: int = 513) -> tuple[Tensor, Tensor]:
    """Return eigenvalues λ and the density of JᵀJ there, J a product of L square Gaussian matrices of variance 1/n.

    With φ in (0, π/(L + 1)): λ = sin^(L+1)((L+1)φ) / (sin φ sin^L(Lφ)), and λρ(λ) = sin φ sin((L+1)φ) / (π sin(Lφ)).

    Args:
        depth: L.
        points: how many, the edges left out.

    Source: Haagerup and Möller 2013 (1211.4457); derived from S(z) = (1 + z)^(−L).

    Example:
        >>> eigenvalues, density = gaussian_product_density(1)  # Marchenko and Pastur's law
        >>> torch.allclose(density, ((4 - eigenvalues) / eigenvalues).sqrt() / (2 * math.pi))
        True
    """
    phi = (torch.arange(1, points + 1, dtype=torch.float64) / (points + 1)) * (math.pi / (depth + 1))
    outer, inner = torch.sin((depth + 1) * phi), torch.sin(depth * phi)
    eigenvalues = outer ** (depth + 1) / (torch.sin(phi) * inner**depth)
    density = torch.sin(phi) * outer / (math.pi * inner) / eigenvalues
    return eigenvalues.flip(0), density.flip(0)


def residual_spectrum_ratio(gains: Sequence[float], aspect: float = 1.0) -> float:
    """Return m₂/m₁² = 1 + Σ (2a + (1 + 2n/m) a²)/(1 + a)² of blocks x ← x + α V relu(U x), a = α² g, infinite width.

    Args:
        gains: a of every block.
        aspect: n/m, stream width over branch width.

    Source: Tarnowski et al. 2019 (1809.08848) for L → ∞; at finite L derived here from the second free cumulants.

    Example:
        >>> round(residual_spectrum_ratio([1 / 4] * 4), 2), round(residual_spectrum_ratio([1 / 10] * 10), 2)
        (2.76, 2.9)
    """
    return 1 + sum((2 * a + (1 + 2 * aspect) * a**2) / (1 + a) ** 2 for a in gains)


def residual_limit_moment(order: int, c: float) -> float:
    """Return m_k = (e^(ck)/k) Σ_j C(k, j + 1) (2ck)^j / j! of JᵀJ, for L → ∞ with L α² g = c.

    The S-transform is e^(−c(1 + 2z)), that of free multiplicative Brownian motion; m₁ = e^c and m₂/m₁² = 1 + 2c.

    Args:
        order: k, at least 1.
        c: L α² g.

    Source: Tarnowski et al. 2019 (1809.08848); Biane 1997, Free Brownian motion.

    Example:
        >>> residual_limit_moment(2, 1.0) / residual_limit_moment(1, 1.0) ** 2
        3.0
    """
    terms = (math.comb(order, j + 1) * (2 * c * order) ** j / math.factorial(j) for j in range(order))
    return math.exp(c * order) / order * sum(terms)


def residual_limit_edges(c: float) -> tuple[float, float]:
    """Return λ₋ and λ₊ = 1/λ₋ = (s + 1)/(s − 1) · e^(cs) with s = √(1 + 2/c): the spectrum of JᵀJ for L → ∞.

    Args:
        c: L α² g.

    Source: Tarnowski et al. 2019 (1809.08848).

    Example:
        >>> [round(edge, 4) for edge in residual_limit_edges(1.0)]
        [0.0474, 21.0944]
    """
    s = math.sqrt(1 + 2 / c)
    upper = (s + 1) / (s - 1) * math.exp(c * s)
    return 1 / upper, upper


def residual_limit_density(c: float, points: int = 1025) -> tuple[Tensor, Tensor]:
    """Return ln λ from edge to edge, and the density of ln λ there: JᵀJ's whole spectrum for L → ∞, L α² g = c.

    ψ(1/λ − i0) = −½ + p + iq solves the moment equation, which is real only on p² = ¼ − q² + q cot(2cq). So the curve
    has a closed form: ln λ = ½ ln(((p + ½)² + q²)/((p − ½)² + q²)) + 2cp, its density q/π, symmetric about λ = 1.

    Args:
        c: L α² g.
        points: on the curve, denser towards the edges.

    Source: the S-transform of Tarnowski et al. 2019 (1809.08848); the parametrisation is derived here.

    Example:
        >>> logs, density = residual_limit_density(1.0)
        >>> [round(float(torch.trapezoid(density * (k * logs).exp(), logs)), 4) for k in (0, 1)]
        [1.0, 2.7183]
    """
    low, high = 0.0, math.pi / (2 * c)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _squared(middle, c) > 0 else (low, middle)
    at = torch.linspace(math.pi, 0, points, dtype=torch.float64)
    q = low * torch.sin(at)
    inner = 0.25 - q**2 + q / torch.tan(2 * c * q)
    inner = torch.where(q < 1e-9, 0.25 + 1 / (2 * c), inner)  # the limit at the edges
    p = torch.sign(torch.cos(at)) * inner.clamp_min(0).sqrt()
    logs = torch.log(((p + 0.5) ** 2 + q**2) / ((p - 0.5) ** 2 + q**2)) / 2 + 2 * c * p
    return logs, q / math.pi


def _squared(q: float, c: float) -> float:
    return 0.25 - q**2 + q / math.tan(2 * c * q)
