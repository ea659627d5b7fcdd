"""Autocorrelation of a gradient along a line of inputs, beside white noise and Brownian motion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.flow.shared.estimate import half_width
from pure.flow.shared.result import PlainData

__all__ = ["Autocorrelation", "averaged", "brownian", "series"]


@dataclass(frozen=True, eq=False)
class Autocorrelation(PlainData):
    """The autocorrelation of the gradient along the inputs, lags 0, 1, …; float64.

    Attributes:
        draws: (draws, lags + 1).
        mean: (lags + 1,), over the draws.
        half_width: (lags + 1,), half of the 95% interval of `mean` over the draws; NaN of a single draw.
        white: half-width of the 95% band around 0 for white noise of this length, width and number of draws.
        brownian: (lags + 1,), what Brownian motion of this length gives.
    """

    draws: Tensor
    mean: Tensor
    half_width: Tensor
    white: float
    brownian: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON; None stands where there is no interval."""
        return {**super().to_dict(), "half_width": self.half_width.tolist() if len(self.draws) > 1 else None}


def series(gradients: Tensor, lags: int) -> Tensor:
    """Return Σ_t ⟨g_t − ḡ, g_{t+k} − ḡ⟩ / Σ_t ‖g_t − ḡ‖² for k = 0, …, lags.

    Args:
        gradients: (directions, inputs, width); sums run over the directions too.
        lags: the largest k.

    >>> series(torch.tensor([[[1.0], [-1.0], [1.0], [-1.0]]]), 2)
    tensor([ 1.0000, -0.7500,  0.5000], dtype=torch.float64)
    """
    centred = gradients.double() - gradients.double().mean(1, keepdim=True)
    count = centred.shape[1]
    products = [(centred[:, : count - k] * centred[:, k:]).sum() for k in range(lags + 1)]
    return torch.stack(products) / products[0]


def averaged(draws: Tensor, inputs: int, width: int) -> Autocorrelation:
    """Return the mean of the draws' autocorrelations with its interval and references."""
    several = len(draws) > 1
    return Autocorrelation(
        draws,
        draws.mean(0),
        half_width(draws) if several else torch.full_like(draws[0], torch.nan),
        1.959963984540054 / math.sqrt(inputs * width * len(draws)),
        brownian(inputs, draws.shape[1] - 1).to(draws.device),
    )


def brownian(count: int, lags: int) -> Tensor:
    """Return the expected autocorrelation, numerator over denominator, of `count` steps of Brownian motion.

    The covariance of steps s and t is min(s, t); taking the mean away projects it.

    Example:
        >>> brownian(200, 2)[:2] > 0.9
        tensor([True, True])
    """
    steps = torch.arange(1, count + 1, dtype=torch.float64)
    covariance = torch.minimum(steps[:, None], steps[None])
    centred = covariance - covariance.mean(0, keepdim=True)
    centred = centred - centred.mean(1, keepdim=True)
    return torch.stack([centred.diagonal(k).sum() for k in range(lags + 1)]) / centred.trace()
