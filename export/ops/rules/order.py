"""Order statistics from a sort, positions in sorted values from comparisons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

aten: Any = torch.ops.aten
Pair = tuple[torch.Tensor, torch.Tensor]


def _ranked(x: torch.Tensor, rank: Any, dim: int, keepdim: bool) -> Pair:
    """The value of that rank along an axis, counted from 0, and its position."""
    values, positions = x.sort(dim=dim, stable=True)
    value, position = values.select(dim, rank), positions.select(dim, rank)
    return (value.unsqueeze(dim), position.unsqueeze(dim)) if keepdim else (value, position)


def _kthvalue(x: torch.Tensor, k: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """The k-th smallest, counted from 1."""
    return _ranked(x, k - 1, dim, keepdim) if x.dim() else NotImplemented


def _median_dim(x: torch.Tensor, dim: int, keepdim: bool = False) -> Any:
    """The lower median; a NaN wins, as in PyTorch."""
    if not x.dim():
        return NotImplemented
    value, position = _ranked(x, (x.shape[dim] - 1) // 2, dim, keepdim)
    if not x.is_floating_point():
        return value, position
    unknown = x.isnan()
    found = unknown.any(dim, keepdim)
    first = unknown.to(torch.int32).argmax(dim, keepdim)
    return torch.where(found, torch.full_like(value, float("nan")), value), torch.where(found, first, position)


def _median(x: torch.Tensor) -> Any:
    """The lower median of everything."""
    return _median_dim(x.reshape(-1), 0)[0]


def _searchsorted(
    sorted_values: torch.Tensor,
    x: torch.Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> torch.Tensor:
    """Where to insert values into sorted ones: how many of these come before."""
    if sorter is not None:
        sorted_values = sorted_values.gather(-1, sorter)
    if sorted_values.dim() > 1:
        sorted_values = sorted_values.unsqueeze(-2)
    value = x.unsqueeze(-1)
    later = sorted_values > value if right or side == "right" else sorted_values >= value
    return (~later).sum(-1).to(torch.int32 if out_int32 else torch.int64)


RULES: dict[Any, Callable[..., Any]] = {
    aten.kthvalue.default: _kthvalue,
    aten.median.dim: _median_dim,
    aten.median.default: _median,
    aten.searchsorted.Tensor: _searchsorted,
}
"""Order statistics."""
