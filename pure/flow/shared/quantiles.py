"""Quantiles of any number of values; `torch.quantile` takes at most 16 million, and at least one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["BAND", "quantiles"]

BAND = (0.1, 0.5, 0.9)


def quantiles(values: Tensor, points: Sequence[float] = BAND) -> Tensor:
    """Return quantiles of a vector, by linear interpolation, in float64; NaN of none.

    Args:
        values: (count,).
        points: each in 0…1.

    Example:
        >>> quantiles(torch.tensor([4.0, 0.0, 2.0]), (0.25, 0.5))
        tensor([1., 2.], dtype=torch.float64)
    """
    if not len(values):
        return torch.full((len(points),), torch.nan, dtype=torch.float64, device=values.device)
    ordered = values.double().sort().values
    where = torch.tensor(points, dtype=torch.float64, device=values.device) * (len(values) - 1)
    low = where.floor().long()
    high = (low + 1).clamp_max(len(values) - 1)
    return torch.lerp(ordered[low], ordered[high], where - low)
