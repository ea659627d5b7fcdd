"""Which operators are reduced to simpler ones while tracing, and by which rules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._decomp import core_aten_decompositions, decomposition_table

from export.ops.rules import RULES
from export.trace.recording import zero_tangent

aten: Any = torch.ops.aten

BEYOND_CORE = (
    aten._adaptive_avg_pool2d.default,
    aten.adaptive_max_pool2d.default,
    aten.slice_scatter.default,
    aten.grid_sampler_2d.default,
    aten.upsample_nearest2d.vec,
    aten.upsample_bilinear2d.vec,
    aten.upsample_bilinear2d.default,
    aten.upsample_bicubic2d.default,
    aten.cumprod.default,
    aten.erfc.default,
    aten.bucketize.Tensor,
)
"""Operators that PyTorch counts as core, but can reduce, and which have no direct ONNX form."""


def _trilinear(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    expand_a: Any,
    expand_b: Any,
    expand_c: Any,
    dims: Any,
    unroll: int = 1,
) -> torch.Tensor:
    """The product that ``torch.nn.functional.bilinear`` is made of."""
    parts = []
    for x, axes in ((a, expand_a), (b, expand_b), (c, expand_c)):
        for axis in sorted(axes):
            x = x.unsqueeze(axis)
        parts.append(x)
    return (parts[0] * parts[1] * parts[2]).sum(list(dims))


def _cdist(a: torch.Tensor, b: torch.Tensor, p: float, compute_mode: int | None = None) -> torch.Tensor:
    """Distances of all pairs of rows."""
    return torch.linalg.vector_norm(a.unsqueeze(-2) - b.unsqueeze(-3), p, -1)


def _hypot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """√(a² + b²), scaled by the larger so that nothing overflows."""
    high, low = torch.maximum(a.abs(), b.abs()), torch.minimum(a.abs(), b.abs())
    ratio = torch.where(high > 0, low / high, torch.zeros_like(low))
    return high * torch.sqrt(1 + ratio * ratio)


def _diagonal(x: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> torch.Tensor:
    """A diagonal by indexing; PyTorch's rule reinterprets memory."""
    a, b = x.shape[dim1], x.shape[dim2]
    rows = torch.arange(max(min(a, b - offset) if offset >= 0 else min(a + offset, b), 0), device=x.device)
    moved = x.movedim((dim1, dim2), (-2, -1))
    return moved[..., rows + max(-offset, 0), rows + max(offset, 0)]


def _diagonal_scatter(
    x: torch.Tensor, source: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> torch.Tensor:
    """A diagonal replaced, by a mask."""
    moved = x.movedim((dim1, dim2), (-2, -1))
    rows = torch.arange(moved.shape[-2], device=x.device)
    columns = torch.arange(moved.shape[-1], device=x.device)
    mask = columns == (rows + offset).unsqueeze(1)
    position = (rows - max(-offset, 0)).clamp(0, source.shape[-1] - 1)
    replaced = torch.where(mask, source[..., position].unsqueeze(-1), moved)
    return replaced.movedim((-2, -1), (dim1, dim2))


def _unfold(x: torch.Tensor, dimension: int, size: int, step: int) -> torch.Tensor:
    """Windows of an axis by indexing; PyTorch's rule reinterprets memory."""
    if not x.dim():
        return x.unsqueeze(0)
    count = (x.shape[dimension] - size) // step + 1
    starts = torch.arange(count, device=x.device) * step
    windows = starts.unsqueeze(1) + torch.arange(size, device=x.device)
    axis = dimension % x.dim()
    picked = x.movedim(axis, -1)[..., windows]
    return picked.movedim(-2, axis)


def _zeros(
    size: Sequence[Any], *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None
) -> torch.Tensor:
    """A tangent that is zero. PyTorch marks it as such; the marked tensor has no symbolic size, and no device here."""
    with zero_tangent():
        return torch.zeros((), dtype=dtype, device=device).expand(size)


OWN: dict[Any, Callable[..., Any]] = {
    aten._efficientzerotensor.default: _zeros,
    aten._trilinear.default: _trilinear,
    aten._cdist_forward.default: _cdist,
    aten.hypot.default: _hypot,
    aten.diagonal.default: _diagonal,
    aten.diagonal_scatter.default: _diagonal_scatter,
    aten.unfold.default: _unfold,
}
"""Rules that PyTorch does not have."""


@functools.lru_cache(maxsize=8)
def decompositions(whole: frozenset[Any]) -> dict[Any, Callable[..., Any]]:
    """Return the rules to trace with.

    Args:
        whole: Operators to leave whole, because they have an ONNX form.
    """
    rules = {**core_aten_decompositions(), **OWN}
    rules.update((op, decomposition_table[op]) for op in BEYOND_CORE if op in decomposition_table)
    rules.update(RULES)
    return {op: rule for op, rule in rules.items() if op not in whole}


def without_views(rules: dict[Any, Callable[..., Any]]) -> dict[Any, Callable[..., Any]]:
    """Leave out operators whose result shares memory with an argument: a copy in its place would lose later writes."""
    return {op: rule for op, rule in rules.items() if not _is_view(op)}


def _is_view(op: Any) -> bool:
    schema = getattr(op, "_schema", None)
    return schema is not None and any(result.alias_info is not None for result in schema.returns)
