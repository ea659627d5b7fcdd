"""Pooling over one to three spatial axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import onnx_ir as ir
import torch
from torch._decomp import decomposition_table
from torch.fx import Node

from export.graph.builder import Builder, Lowering
from export.ops.convolution import per_axis
from export.ops.shared.axis_maps import axis_matrices, fixed_sizes, repeated, times_matrices
from export.ops.shared.kernels import folded
from export.ops.shared.window_maxima import NO_MAX_POOL, PoolWindows, maxima, maxima_with_positions

__all__ = ["BATCHING", "COMPOSITES", "DECOMPOSITIONS", "LOWERINGS", "adaptive_mean"]

aten: Any = torch.ops.aten

FIXED_PLANE = "the positions of the largest values need fixed spatial sizes"


def _batched(g: Builder, x: Any, rank: int) -> tuple[ir.Value, bool]:
    """Return x with a batch axis, which ONNX needs, and whether it had none."""
    lone = len(g.shape_of(x)) == rank + 1
    return (g.unsqueeze(g.tensor(x), 0) if lone else g.tensor(x)), lone


def _apart_from_pad(g: Builder, value: ir.Value) -> ir.Value:
    """Keep ONNX Runtime from joining a Pad with the pool after it; it looks at neighbours alone.

    Before a MaxPool the zeros would become -∞; before an AveragePool the pads may be more than its kernel takes.
    """
    source = value.producer()
    if source is None or source.op_type != "Pad":
        return value
    return g.op("Squeeze", g.unsqueeze(value, 0), g.constant([0]))


def _pads_of_ceil(
    g: Builder,
    sizes: Sequence[Any],
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int],
    gap: Sequence[int],
) -> list[int] | None:
    """Return the pads behind each axis with which rounding down gives the windows of `ceil_mode`.

    PyTorch drops a window that would start in the padding. Below opset 22, ONNX's shape inference does not.

    Returns:
        the pads, None where a size is dynamic.
    """
    behind = []
    for size, k, s, p, d in zip(map(g.static, sizes), kernel, stride, pads, gap, strict=True):
        if size is None:
            return None
        reach = d * (k - 1) + 1
        count = -((size + 2 * p - reach) // -s) + 1
        count -= (count - 1) * s >= size + p
        behind.append(max(p, (count - 1) * s + reach - size - p))
    return behind


def _lowest_behind(g: Builder, value: ir.Value, extra: Sequence[int]) -> ir.Value:
    """Pad behind each spatial axis with what no maximum takes."""
    lowest = g.constant(-math.inf, g.dtypes[value])
    amounts = g.constant([0] * (len(extra) + 4) + list(extra))
    return _apart_from_pad(g, g.op("Pad", value, amounts, lowest, mode="constant"))


def max_pool(rank: int) -> Lowering:
    """Lower to MaxPool, with the positions in the plane if something uses them."""

    def rule(
        g: Builder,
        node: Node,
        x: Any,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> tuple[ir.Value, ir.Value | None]:
        sizes = per_axis(kernel, rank)
        pads = per_axis(padding, rank)
        value, lone = _batched(g, x, rank)
        value = _apart_from_pad(g, value)
        steps, gap = per_axis(stride, rank) if stride else sizes, per_axis(dilation, rank)
        behind = _pads_of_ceil(g, g.shape_of(x)[-rank:], sizes, steps, pads, gap) if ceil_mode else None
        placed = any(user.args[1] == 1 for user in node.users if user.op == "call_function" and len(user.args) == 2)
        if g.target == "cuda" and g.opset >= NO_MAX_POOL and not (ceil_mode and behind is None):
            windows = PoolWindows(sizes, steps, gap, pads, behind or pads)
            return _by_slices(g, node, x, windows, placed)
        if behind is not None and any(b >= k for b, k in zip(behind, sizes, strict=True)):  # more than a kernel takes
            value = value if placed else _lowest_behind(g, value, [b - p for b, p in zip(behind, pads, strict=True)])
            behind = None if placed else pads
        attributes: dict[str, Any] = {
            "kernel_shape": sizes,
            "strides": steps,
            "pads": [*pads, *(behind or pads)],
            "dilations": gap,
            "ceil_mode": int(ceil_mode and behind is None),
        }
        positions = None
        if placed:
            area = g.fixed(g.shape_of(x)[-rank:], FIXED_PLANE)
            result, flat = g.ops("MaxPool", value, count=2, dtypes=[None, torch.int64], **attributes)
            positions = g.op("Mod", flat, g.constant(math.prod(area)))
            positions = g.op("Squeeze", positions, g.constant([0])) if lone else positions
        else:
            result = g.op("MaxPool", value, **attributes)
        return (g.op("Squeeze", result, g.constant([0])) if lone else result), positions

    return rule


def _by_slices(g: Builder, node: Node, x: Any, windows: PoolWindows, placed: bool) -> tuple[ir.Value, ir.Value | None]:
    """Compute a max pool without MaxPool."""
    rank = len(windows.kernel)
    value, lone = _batched(g, x, rank)
    if not placed:
        result = maxima(g, value, windows)
        return (g.op("Squeeze", result, g.constant([0])) if lone else result), None
    found = maxima_with_positions(
        g,
        value,
        windows,
        g.fixed(g.shape_of(x)[-rank:], FIXED_PLANE),
        g.fixed(node.meta["val"][0].shape[-rank:], FIXED_PLANE),
    )
    result, positions = (g.op("Squeeze", one, g.constant([0])) if lone else one for one in found)
    return result, positions


def avg_pool(rank: int) -> Lowering:
    """Lower to AveragePool."""

    def rule(
        g: Builder,
        node: Node,
        x: Any,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> ir.Value:
        sizes = per_axis(kernel, rank)
        pads = per_axis(padding, rank)
        steps = per_axis(stride, rank) if stride else sizes
        behind = _pads_of_ceil(g, g.shape_of(x)[-rank:], sizes, steps, pads, [1] * rank) if ceil_mode else None
        if divisor_override and ceil_mode and behind is None:
            raise g.unsupported("divisor_override with ceil_mode needs fixed spatial sizes")
        value, lone = _batched(g, x, rank)
        value = _apart_from_pad(g, value)
        counted = count_include_pad or bool(divisor_override)
        if behind not in (None, pads) and count_include_pad and not divisor_override:
            # The padding counts, but not what the last window reaches beyond it.
            if any(pads):
                amounts = g.constant([0, 0, *pads, 0, 0, *pads])
                value = _apart_from_pad(g, g.op("Pad", value, amounts, g.constant(0, g.dtypes[value]), mode="constant"))
            behind = [b - p for b, p in zip(behind, pads, strict=True)]
            pads, counted = [0] * rank, False
        result = g.op(
            "AveragePool",
            value,
            kernel_shape=sizes,
            strides=steps,
            pads=[*pads, *(behind or pads)],
            ceil_mode=int(ceil_mode and behind is None),
            count_include_pad=int(counted),
        )
        if divisor_override:
            result = g.op("Mul", result, g.constant(math.prod(sizes) / divisor_override, g.dtypes[result]))
        return g.op("Squeeze", result, g.constant([0])) if lone else result

    return rule


def adaptive_mean(rank: int, backward: bool) -> Lowering:
    """Lower `_adaptive_avg_pool…` or its gradient, as a linear map along each axis."""
    forward = {2: aten._adaptive_avg_pool2d, 3: aten._adaptive_avg_pool3d}[rank]

    def rule(g: Builder, node: Node, value: Any, other: Any) -> ir.Value:
        inner = fixed_sizes(g, g.shape_of(other if backward else value)[-rank:])
        outer = fixed_sizes(g, g.shape_of(value)[-rank:] if backward else other)

        image = g.tensor(value)
        windows = [size // count for size, count in zip(inner, outer, strict=True)]
        even = all(size % count == 0 for size, count in zip(inner, outer, strict=True))
        if even and g.dtypes[image] == torch.float32 and len(g.shape_of(value)) == rank + 2:
            if not backward:
                return g.op("AveragePool", image, kernel_shape=windows, strides=windows)
            return repeated(g, g.op("Div", image, g.constant(float(math.prod(windows)), torch.float32)), windows)

        def apply(image: torch.Tensor, axis: int, sizes: list[int]) -> torch.Tensor:
            return cast(torch.Tensor, forward(image, sizes))

        factors = axis_matrices(apply, inner, outer)
        if backward:
            factors = [matrix.mT for matrix in factors]
        return times_matrices(g, image, rank, len(g.shape_of(value)), factors)

    return rule


def _adaptive_windows(size: int, count: int) -> torch.Tensor:
    """Return the positions in each window, the last one repeated in windows that are shorter than others."""
    starts = [i * size // count for i in range(count)]
    ends = [-((i + 1) * size // -count) for i in range(count)]
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    rows = [[min(start + j, end - 1) for j in range(longest)] for start, end in zip(starts, ends, strict=True)]
    return torch.tensor(rows)


def _adaptive_max(x: torch.Tensor, output_size: Sequence[int]) -> Any:
    """Return the largest value of each window and its position in the plane; window sizes differ by at most one."""
    rank = len(output_size)
    sizes = x.shape[-rank:]
    if not all(isinstance(size, int) for size in (*sizes, *output_size)):
        return NotImplemented
    if all(size % count == 0 for size, count in zip(sizes, output_size, strict=True)):
        extent = [size // count for size, count in zip(sizes, output_size, strict=True)]
        pool = {2: aten.max_pool2d_with_indices, 3: aten.max_pool3d_with_indices}[rank]
        return pool(x, extent, extent)
    indices: list[torch.Tensor] = []
    for axis, (size, count) in enumerate(zip(sizes, output_size, strict=True)):
        window = _adaptive_windows(size, count)
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = window.shape
        indices.append(window.reshape(shape).to(x.device))
    places: Any = (..., *indices)
    picked = x[places].flatten(-rank)
    plane = torch.arange(math.prod(sizes), device=x.device).reshape(sizes)
    where = plane[tuple(indices)].flatten(-rank)
    values, first = picked.max(-1)
    return values, where.expand(picked.shape).gather(-1, first.unsqueeze(-1)).squeeze(-1)


def _adaptive_avg(rank: int) -> Callable[..., torch.Tensor]:
    """Make `adaptive_avg_pool…d` of other operators; PyTorch's restores a channels-last layout by `as_strided`."""
    pool = {2: aten._adaptive_avg_pool2d, 3: aten._adaptive_avg_pool3d}[rank].default

    def rule(x: torch.Tensor, output_size: Sequence[Any]) -> torch.Tensor:
        if all(isinstance(size, int) and size == 1 for size in output_size):
            return x.mean(tuple(range(-rank, 0)), keepdim=True)
        if rank == 2 and not all(isinstance(size, int) for size in (*x.shape[-2:], *output_size)):
            return cast(torch.Tensor, decomposition_table[pool](x, output_size))
        return cast(torch.Tensor, pool(x, output_size))

    return rule


LOWERINGS: dict[Any, Lowering] = {
    aten.max_pool2d_with_indices.default: max_pool(2),
    aten.max_pool3d_with_indices.default: max_pool(3),
    aten.avg_pool1d.default: avg_pool(1),
    aten.avg_pool2d.default: avg_pool(2),
    aten.avg_pool3d.default: avg_pool(3),
    aten._adaptive_avg_pool2d.default: adaptive_mean(2, backward=False),
    aten._adaptive_avg_pool3d.default: adaptive_mean(3, backward=False),
}

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.adaptive_max_pool2d.default: _adaptive_max,
    aten.adaptive_max_pool3d.default: _adaptive_max,
}

BATCHING: dict[Any, Callable[..., Any]] = folded(
    aten.max_pool2d_with_indices.default, aten.avg_pool2d.default, aten._adaptive_avg_pool2d.default
)

COMPOSITES: dict[Any, Callable[..., Any]] = {
    aten.adaptive_avg_pool2d.default: _adaptive_avg(2),
    aten.adaptive_avg_pool3d.default: _adaptive_avg(3),
}
