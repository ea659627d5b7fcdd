"""Nodes and weights of several probes, and what is read off them: means, densities and counts, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.errors import ArgumentError
from pure.flow.shared.estimate import Estimate, estimate, half_width

__all__ = ["Density", "Quadrature"]


@dataclass(frozen=True, eq=False)
class Density:
    """A spectral density on a grid, with its pointwise 95% interval.

    Attributes:
        grid: (points,), where.
        value: (points,), the density; it integrates to 1 over the whole axis.
        low: (points,), lower ends.
        high: (points,), upper ends.
        width: standard deviation of the Gaussian that every node was smeared by, in the units of the grid.
    """

    grid: Tensor
    value: Tensor
    low: Tensor
    high: Tensor
    width: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON."""
        curves = {name: getattr(self, name).tolist() for name in ("grid", "value", "low", "high")}
        return {**curves, "width": self.width}


@dataclass(frozen=True, eq=False)
class Quadrature:
    """For each probe v a rule vᵀf(A)v ≈ Σ w f(θ); the mean over the probes estimates tr f(A) / size.

    Attributes:
        nodes: (probes, steps), float64; nodes of weight 0 mean nothing.
        weights: (probes, steps), float64, each row of sum 1.
        size: of the operator.
        exact: each row is a whole spectrum, not a probe; a single row then needs no interval.
        group: so many rows in a row belong to one independent value, such as the probes of one sample.
    """

    nodes: Tensor
    weights: Tensor
    size: int
    exact: bool = False
    group: int = 1

    def _grouped(self, rows: Tensor) -> Tensor:
        """Return the mean over each group of rows: what is independent."""
        return rows.unflatten(0, (-1, self.group)).mean(1)

    def mean(self, f: Callable[[Tensor], Tensor]) -> Estimate:
        """Return tr f(A) / size, the mean of f over the spectrum, with its interval over the probes.

        Args:
            f: a function of the eigenvalues, elementwise.
        """
        each = self.means(f)
        if self.exact and len(each) == 1:
            return Estimate(float(each), float(each), float(each), 0.0, 0)
        return estimate(each)

    def means(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """Return Σ w f(θ) of each row, or group of rows: (probes,)."""
        return self._grouped(torch.where(self.weights > 0, f(self.nodes) * self.weights, 0.0).sum(1))

    def density(self, grid: Tensor, width: float | None = None) -> Density:
        """Return the density, every node smeared by a Gaussian.

        The interval is pointwise and for the smeared density; it speaks of the random probes alone.

        Args:
            grid: (points,), where to evaluate.
            width: standard deviation of the Gaussian; default 3% of the range of the nodes.

        Raises:
            ArgumentError: a width that is not positive.
        """
        seen = self.nodes[self.weights > 0]
        spread = float(seen.max() - seen.min()) or abs(float(seen.max())) or 1.0
        width = 0.03 * spread if width is None else width
        if not width > 0:
            raise ArgumentError(f"density width={width}: expected more than 0")
        grid = grid.to(self.nodes)
        bumps = torch.exp(-((grid[:, None, None] - self.nodes) / width).square() / 2) / (width * math.sqrt(2 * math.pi))
        each = self._grouped((bumps * self.weights).sum(2).T)
        value = each.mean(0)
        half = torch.zeros_like(value) if self.exact and len(each) == 1 else half_width(each)
        return Density(grid, value, (value - half).clamp_min(0), value + half, width)

    def cumulative(self, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the share of the spectrum at or below each point, and a band that holds both sources of error.

        Each rule's sums over the nodes enclose its probe's true share: without the last node, and with the next one.
        The band goes from the lower sums' 95% interval to that of the upper sums, pointwise.

        Args:
            grid: (points,), where.

        Returns:
            The middle, the lower and the upper end, (points,) each.

        Source: Golub and Meurant 2010, Matrices, Moments and Quadrature, theorem 5.5 (Chebyshev, Markov, Stieltjes).
        """
        grid = grid.to(self.nodes)
        if self.exact:
            lower = upper = torch.stack([(self.weights * (self.nodes <= at)).sum(1) for at in grid], 1)
        else:
            order = self.nodes.where(self.weights > 0, torch.inf).sort(1)
            sums = F.pad(self.weights.gather(1, order.indices).cumsum(1), (2, 1), value=0.0)
            sums[:, -1] = sums[:, -2]  # 0, 0, w₁, w₁ + w₂, …, 1, 1
            count = torch.searchsorted(order.values, grid.repeat(len(self.nodes), 1), right=True)
            lower, upper = sums.gather(1, count), sums.gather(1, count + 2)
        lower, upper = self._grouped(lower), self._grouped(upper)
        middle = ((lower + upper) / 2).mean(0)
        if self.exact and len(lower) == 1:
            return middle, middle, middle
        low, high = lower.mean(0) - half_width(lower), upper.mean(0) + half_width(upper)
        return middle, low.clamp(0, 1), high.clamp(0, 1)
