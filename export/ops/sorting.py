"""Sorting, order statistics, and positions in sorted values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import Node

from export.graph.builder import Builder, Lowering
from export.ops.shared.kernels import pytorch_rules

__all__ = ["DECOMPOSITIONS", "LOWERINGS"]

aten: Any = torch.ops.aten

Pair = tuple[Tensor, Tensor]


def topk(
    g: Builder, node: Node, x: Any, k: Any, dim: int = -1, largest: bool = True, order: bool = True
) -> tuple[ir.Value, ...]:
    """Return the k largest or smallest, with positions."""
    return _ordered(g, g.tensor(x), g.size(k), dim, largest, order)


def _ordered(
    g: Builder, value: ir.Value, count: ir.Value, dim: int, largest: bool, order: bool = True
) -> tuple[ir.Value, ...]:
    """Lower to TopK, NaN being the largest; booleans and small integers are cast to int32."""
    dtype = g.dtypes[value]
    narrow = dtype in (torch.bool, torch.uint8, torch.int8, torch.int16)
    key = g.cast(value, torch.int32) if narrow else value
    if dtype.is_floating_point:
        infinite = g.constant(float("inf"), dtype)
        key = g.op("Where", g.op("IsNaN", value, dtype=torch.bool), infinite, value, dtype=dtype)
    options: dict[str, Any] = {"axis": dim, "largest": int(largest), "sorted": int(order)}
    values, positions = g.ops("TopK", key, count, count=2, dtypes=[None, torch.int64], **options)
    if dtype.is_floating_point:
        values = g.op("GatherElements", value, positions, axis=dim)
    return g.cast(values, dtype), positions


def sort(
    g: Builder, node: Node, x: Any, dim: int = -1, descending: bool = False, *, stable: bool | None = None
) -> tuple[ir.Value, ...]:
    """Sort an axis by TopK of all, which is stable: ONNX Runtime prefers the lower position."""
    value = g.tensor(x)
    if not g.shape_of(x):
        return value, g.constant(0)
    size = g.shape_of(x)[dim]
    count = g.dim(value, dim % len(g.shape_of(x))) if g.static(size) is None else g.size(size)
    return _ordered(g, value, count, dim, descending)


def _ranked(x: torch.Tensor, rank: Any, dim: int, keepdim: bool) -> Pair:
    """Return the value of a rank along an axis, counted from 0, and its position."""
    values, positions = x.sort(dim)
    value, position = values.select(dim, rank), positions.select(dim, rank)
    return (value.unsqueeze(dim), position.unsqueeze(dim)) if keepdim else (value, position)


def _kthvalue(x: torch.Tensor, k: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """Return the k-th smallest, counted from 1."""
    return _ranked(x, k - 1, dim, keepdim) if x.dim() else NotImplemented


def _median_dim(x: torch.Tensor, dim: int, keepdim: bool = False) -> Any:
    """Return the lower median and its position; NaN wins, as in PyTorch."""
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
    """Return the lower median of all elements."""
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
    """Return how many sorted values come before each value."""
    if sorter is not None:
        sorted_values = sorted_values.gather(-1, sorter)
    if sorted_values.dim() > 1:
        sorted_values = sorted_values.unsqueeze(-2)
    value = x.unsqueeze(-1)
    later = sorted_values > value if right or side == "right" else sorted_values >= value
    return (~later).sum(-1).to(torch.int32 if out_int32 else torch.int64)


LOWERINGS: dict[Any, Lowering] = {
    aten.topk.default: topk,
    aten.sort.default: sort,
    aten.sort.stable: sort,
}

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.kthvalue.default: _kthvalue,
    aten.median.dim: _median_dim,
    aten.median.default: _median,
    aten.searchsorted.Tensor: _searchsorted,
    **pytorch_rules(aten.bucketize.Tensor),
}
