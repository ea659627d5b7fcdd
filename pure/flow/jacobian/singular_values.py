"""Singular values of a Jacobian and the spectrum of JᵀJ: the result of `jacobian_spectrum`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from pure.errors import ArgumentError
from pure.flow.linalg.quadrature import Density, Quadrature
from pure.flow.shared.estimate import Estimate, ratio
from pure.flow.shared.result import Result, plain_data
from pure.flow.shared.text_table import table

__all__ = ["JacobianSpectrum", "Method"]

Method = Literal["full", "golub-kahan", "lanczos"]


@dataclass(frozen=True, eq=False)
class JacobianSpectrum(Result):
    """Singular values σ of J = ∂fn/∂x, and the spectrum of JᵀJ.

    As a mapping, by `dict(result)` and `result[name]`, the numbers of `table()`.

    Attributes:
        values: (k,), or (samples, k) of a batch: float64, largest first; none by the method "lanczos".
        residuals: of the same shape: a singular value lies within this distance of each; 0 where all were found.
        converged: of the same shape, bool.
        shape: (outputs, inputs) of J.
        method: "full", "golub-kahan" or "lanczos".
        rule: JᵀJ's spectrum as nodes λ = σ² and weights: a row a sample, or a row a probe, sample by sample.
        products: how many vectors were multiplied by J or Jᵀ, for all samples together.
    """

    values: Tensor
    residuals: Tensor
    converged: Tensor
    shape: tuple[int, int]
    method: Method
    rule: Quadrature
    products: int

    @property
    def moments(self) -> dict[str, Estimate]:
        """m₁ = tr JᵀJ / inputs, m₂ = tr (JᵀJ)² / inputs, and m₂/m₁², each with its 95% interval.

        One input's full spectrum gives exact numbers. Of a batch they are means, and the interval is for the mean over
        inputs drawn like these; else it is over the random probes.
        """
        first, second = self.rule.means(lambda x: x), self.rule.means(torch.square)
        mean = self.rule.mean
        return {"m1": mean(lambda x: x), "m2": mean(torch.square), "m2/m1²": ratio(second, first)}

    @property
    def condition(self) -> Tensor:
        """σ_max / σ_min, a number or (samples,); infinite where the rank is not full.

        Raises:
            ArgumentError: not all singular values were found.
        """
        if self.values.shape[-1] < min(self.shape):
            raise ArgumentError(f"condition from {self.values.shape[-1]} singular values: measure with method='full'")
        rounding = torch.finfo(torch.float64).eps * max(self.shape) * self.values[..., 0]
        smallest = self.values[..., -1]
        return self.values[..., 0] / torch.where(smallest > rounding, smallest, 0.0)

    @cached_property
    def _numbers(self) -> dict[str, float | Estimate]:
        found: dict[str, float | Estimate] = dict(self.moments)
        if self.values.shape[-1]:
            found["largest σ"] = float(self.values[..., 0].max())
        if self.values.shape[-1] == min(self.shape):
            found["smallest σ"] = float(self.values[..., -1].min())
            found["condition"] = float(self.condition.max())
        return found

    def __getitem__(self, name: str) -> float:
        return float(self._numbers[name])

    def keys(self) -> list[str]:
        """Return the names of the numbers that are known."""
        return list(self._numbers)

    def __repr__(self) -> str:
        rows = f" of {len(self.values)} samples" if self.values.ndim == 2 else ""
        count = self.values.shape[-1]
        open_ = int((~self.converged).sum())
        flag = f", {open_} not converged" if open_ else ""
        return f"JacobianSpectrum({self.shape[0]} × {self.shape[1]}{rows}, {count} values by {self.method}{flag})"

    def density(self, grid: Tensor, *, width: float | None = None) -> Density:
        """Return the density of λ = σ², the spectrum of JᵀJ, with its pointwise 95% interval.

        Args:
            grid: (points,), values of λ.
            width: standard deviation of the Gaussian that smears each λ; default 3% of their range.

        Raises:
            ArgumentError: only the largest singular values were measured.
        """
        if self.method == "golub-kahan":
            raise ArgumentError("density by method='golub-kahan', which finds the largest values: use 'lanczos'")
        return self.rule.density(grid, width)

    def table(self) -> str:
        """Return a plain text table: moments with their intervals, and the extreme values."""
        rows: list[list[str | float]] = []
        for name, number in self._numbers.items():
            if isinstance(number, Estimate):
                rows.append([name, number.value, number.low, number.high])
            else:
                rows.append([name, number, "", ""])
        return table([f"J, {self.shape[0]} × {self.shape[1]}", "value", "95% low", "95% high"], rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON."""
        return {
            "shape": list(self.shape),
            "method": self.method,
            "products": self.products,
            "moments": plain_data(self.moments),
            **{name: getattr(self, name).tolist() for name in ("values", "residuals", "converged")},
            "nodes": self.rule.nodes.tolist(),
            "weights": self.rule.weights.tolist(),
        }
