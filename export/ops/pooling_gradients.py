"""Gradients of pooling: a maximum passes its gradient to one position, a mean spreads it over the window."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import Builder, Lowering
from export.ops.convolution import per_axis
from export.ops.indexing import written
from export.ops.pooling import adaptive_mean
from export.ops.shared.axis_maps import REPEATED_DTYPES, repeated, times_matrices
from export.ops.shared.kernels import folded

__all__ = ["BATCHING", "DECOMPOSITIONS", "LOWERINGS"]

aten: Any = torch.ops.aten


def max_pool_backward(rank: int) -> Lowering:
    """Lower `max_pool…_with_indices_backward`: add each gradient at its maximum's position."""

    def rule(
        g: Builder,
        node: Node,
        grad: Any,
        x: Any,
        kernel: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        ceil_mode: bool,
        indices: Any,
    ) -> ir.Value:
        shape = g.shape_of(x)
        lead = shape[:-rank]
        inner_positions, outer_positions = math.prod(_fixed(g, x, rank)), math.prod(_fixed(g, grad, rank))
        values, positions = (g.reshape(g.tensor(arg), [*lead, outer_positions]) for arg in (grad, indices))
        size = g.op("Shape", g.reshape(g.tensor(x), [*lead, inner_positions]), dtype=torch.int64)
        empty = g.op("Expand", g.constant(0.0, g.dtypes[values]), size)
        added = written(g, empty, positions, values, len(lead), "add")
        return g.reshape(added, shape)

    return rule


def avg_pool_backward(rank: int) -> Lowering:
    """Lower `avg_pool…_backward`: divide by each window's count, and add what windows cover together, axis by axis.

    By matrices of zeros and ones: on one channel a time, ONNX Runtime's transposed convolution takes ten times as long.
    """

    def rule(
        g: Builder,
        node: Node,
        grad: Any,
        x: Any,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        ceil_mode: bool,
        count_include_pad: bool,
        divisor_override: int | None,
    ) -> ir.Value:
        shape = g.shape_of(x)
        inner, outer = _fixed(g, x, rank), _fixed(g, grad, rank)
        sizes, pads = per_axis(kernel, rank), per_axis(padding, rank)
        steps = per_axis(stride, rank) if stride else sizes
        value = g.tensor(grad)
        dtype = g.dtypes[value]
        apart = sizes == steps and not any(pads) and inner == [o * k for o, k in zip(outer, sizes, strict=True)]
        if apart and dtype in REPEATED_DTYPES and len(shape) == rank + 2:
            divisor = float(divisor_override or math.prod(sizes))
            return repeated(g, g.op("Div", value, g.constant(divisor, dtype)), sizes)
        counts = _counts(outer, inner, sizes, steps, pads, count_include_pad, divisor_override)
        value = g.op("Div", value, g.tensor_constant(counts.to(dtype)))
        covered = [_covered(*axis) for axis in zip(outer, inner, sizes, steps, pads, strict=True)]
        return times_matrices(g, value, rank, len(shape), covered)

    return rule


def _fixed(g: Builder, arg: Any, rank: int) -> list[int]:
    """Return the spatial sizes of a node, which must be fixed."""
    return g.fixed(g.shape_of(arg)[-rank:], "the derivative of pooling needs fixed spatial sizes")


def _covered(outer: int, inner: int, size: int, step: int, pad: int) -> torch.Tensor:
    """Return which positions each window covers, as ones of shape (outer, inner)."""
    offset = torch.arange(inner) - (torch.arange(outer) * step - pad).unsqueeze(1)
    return ((offset >= 0) & (offset < size)).double()


def _counts(
    outer: Sequence[int],
    inner: Sequence[int],
    sizes: Sequence[int],
    steps: Sequence[int],
    pads: Sequence[int],
    count_include_pad: bool,
    divisor: int | None,
) -> torch.Tensor:
    """Return each window's divisor, of shape `outer`."""
    if divisor:
        return torch.full(tuple(outer), divisor)
    counts = torch.ones((), dtype=torch.int64)
    for out, size, window, step, pad in zip(outer, inner, sizes, steps, pads, strict=True):
        start = torch.arange(out) * step - pad
        end = (start + window).clamp(max=size + pad)
        along = end - start if count_include_pad else end.clamp(max=size) - start.clamp(min=0)
        counts = counts[..., None] * along
    return counts


def _adaptive_max_backward(rank: int) -> Callable[..., torch.Tensor]:
    """Make the decomposition: add each gradient at its maximum's position."""

    def rule(grad: torch.Tensor, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        flat = torch.zeros_like(x).flatten(-rank)
        return flat.scatter_add(-1, indices.flatten(-rank), grad.flatten(-rank)).reshape(x.shape)

    return rule


LOWERINGS: dict[Any, Lowering] = {
    aten.max_pool2d_with_indices_backward.default: max_pool_backward(2),
    aten.max_pool3d_with_indices_backward.default: max_pool_backward(3),
    aten.avg_pool2d_backward.default: avg_pool_backward(2),
    aten.avg_pool3d_backward.default: avg_pool_backward(3),
    aten._adaptive_avg_pool2d_backward.default: adaptive_mean(2, backward=True),
    aten._adaptive_avg_pool3d_backward.default: adaptive_mean(3, backward=True),
}

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.adaptive_max_pool2d_backward.default: _adaptive_max_backward(2),
    aten.adaptive_max_pool3d_backward.default: _adaptive_max_backward(3),
}

BATCHING: dict[Any, Callable[..., Any]] = folded(
    aten.max_pool2d_with_indices_backward.default,
    aten.avg_pool2d_backward.default,
    aten._adaptive_avg_pool2d_backward.default,
)
