"""Convolutions of one to three spatial axes, transposed ones included.

`vmap` over the input alone joins the mapped axis to the batch, over the weight alone to the channels. With both mapped,
each element gets its own group of channels; a symbolic number of groups, which no operator allows, is avoided by a
matrix product over windows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import Node

from export.graph.builder import Builder, Lowering
from export.ops.shared import windows
from export.ops.shared.kernels import Size, fold, mapped_kernel, mapped_size, unfold, with_mapped_axis

__all__ = [
    "BATCHING",
    "LOWERINGS",
    "Numbers",
    "batch_windows",
    "grouped_windows",
    "is_number",
    "merge_mapped",
    "per_axis",
    "split_mapped",
]

aten: Any = torch.ops.aten

Numbers = Sequence[int]


def convolution(
    g: Builder,
    node: Node,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> ir.Value:
    """Lower to Conv or ConvTranspose, or to one matrix product."""
    rank = len(g.shape_of(weight)) - 2
    geometry = windows.Geometry(per_axis(stride, rank), per_axis(padding, rank), per_axis(dilation, rank), groups)
    if g.target == "cpu" and not transposed and groups == 1 and len(g.shape_of(x)) == rank + 2:
        found = windows.recorded_windows(g, x, node, weight, geometry)
        stored = g.tensor(weight).const_value is not None  # which ONNX Runtime puts in the order of a faster kernel
        if found is not None and not stored and found.pay_as_one_product(g, weight, x):
            return _product(g, node, x, weight, bias, found)
    attributes = geometry.attributes()
    attributes["kernel_shape"] = g.fixed(g.shape_of(weight)[2:], "the kernel's sizes must not be dynamic")
    inputs = [g.tensor(x), g.tensor(weight)] + ([g.tensor(bias)] if bias is not None else [])
    unbatched = len(g.shape_of(x)) == rank + 1
    if unbatched:
        inputs[0] = g.unsqueeze(inputs[0], 0)
    if transposed and any(output_padding):
        attributes["output_padding"] = per_axis(output_padding, rank)
    result = g.op("ConvTranspose" if transposed else "Conv", *inputs, **attributes)
    return g.op("Squeeze", result, g.constant([0])) if unbatched else result


def _product(g: Builder, node: Node, x: Any, weight: Any, bias: Any, found: windows.Windows) -> ir.Value:
    """Compute the convolution as one matrix product for the batch."""
    out_channels, in_channels = g.shape_of(weight)[:2]
    flat = g.reshape(g.tensor(weight), [out_channels, in_channels * found.taps])
    shift = [g.reshape(g.tensor(bias), [out_channels, 1])] if bias is not None else []
    batch = g.shape_of(x)[0]
    result = g.op("Gemm", flat, windows.window_columns(g, g.tensor(x), batch, in_channels, found), *shift)
    images = g.transpose(g.reshape(result, [out_channels, math.prod(found.coarse), batch]), [2, 0, 1])
    return g.reshape(images, [batch, out_channels, *found.coarse])


def per_axis(values: int | Sequence[int], rank: int) -> list[int]:
    """Return one number per axis, from a number or from a list of one or of all."""
    numbers = [values] if isinstance(values, int) else list(values)
    return numbers if len(numbers) == rank else numbers[:1] * rank


def is_number(size: Size) -> bool:
    """Tell whether the mapped axis has a fixed size, which may be a number of groups."""
    return isinstance(size, int)


def merge_mapped(x: Tensor, axis: int, groups: int) -> Tensor:
    """Merge the mapped axis into `axis` of the unmapped tensor, in the order (group, mapped, channel)."""
    shape = x.shape[1:]
    parts = x.reshape(x.shape[0], *shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    return parts.movedim(0, axis + 1).reshape(*shape[:axis], x.shape[0] * shape[axis], *shape[axis + 1 :])


def split_mapped(x: Tensor, axis: int, groups: int, size: Size) -> Tensor:
    """Undo `merge_mapped`."""
    shape = x.shape
    each = shape[axis] // size
    parts = x.reshape(*shape[:axis], groups, size, each // groups, *shape[axis + 1 :])
    return parts.movedim(axis + 1, 0).reshape(size, *shape[:axis], each, *shape[axis + 1 :])


def batch_windows(
    fine: Tensor, coarse: Sequence[Size], kernel: Numbers, stride: Numbers, padding: Numbers, dilation: Numbers
) -> Tensor:
    """Extract windows: (n, channels, *fine) → (n, channels, kernel, positions of the coarse map)."""
    padded = torch.constant_pad_nd(fine, [amount for p in reversed(padding) for amount in (p, p)])
    seen = []
    for offsets in itertools.product(*map(range, kernel)):
        part = padded
        for axis, (offset, d, s, places) in enumerate(zip(offsets, dilation, stride, coarse, strict=True)):
            first = offset * d
            part = aten.slice.Tensor(part, axis + 2, first, first + (places - 1) * s + 1, s)
        seen.append(part.flatten(2))
    return torch.stack(seen, 2)


def grouped_windows(windows: Tensor, size: Size, groups: int) -> Tensor:
    """(mapped · n, channels, kernel, places) → (mapped, n, groups, channels / groups · kernel, places)."""
    rows, channels, kernel, places = windows.shape
    return windows.reshape(size, rows // size, groups, channels // groups * kernel, places)


def _batched(
    mapped: Sequence[bool],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Numbers,
    padding: Numbers,
    dilation: Numbers,
    transposed: bool,
    output_padding: Numbers,
    groups: int,
) -> Tensor:
    """Compute `aten.convolution` under `vmap`."""
    size = mapped_size(mapped[:3], (x, weight, bias))
    x_mapped, weight_mapped, bias_mapped = mapped[:3]
    inside = None if weight_mapped or bias_mapped else bias

    def run(x: Tensor, weight: Tensor, groups: Any) -> Tensor:
        settings = (stride, padding, dilation, transposed, output_padding, groups)
        result: Tensor = aten.convolution.default(x, weight, inside, *settings)
        return result

    if not weight_mapped:
        result = unfold(run(fold(with_mapped_axis(x, x_mapped, size)), weight, groups), size, x.shape[x_mapped])
    elif not x_mapped:
        wide = merge_mapped(weight, 1, 1) if transposed else merge_mapped(weight, 0, groups)
        result = split_mapped(run(x, wide, groups), 1, groups, size)
    elif is_number(size) or transposed:
        result = split_mapped(run(merge_mapped(x, 1, 1), fold(weight), groups * size), 1, 1, size)
    else:
        result = _convolve_windows(x, weight, stride, padding, dilation, groups)
    if bias is not None and inside is None:
        place = [1] * len(stride)
        result = result + (bias.reshape(size, 1, -1, *place) if bias_mapped else bias.reshape(-1, *place))
    return result


def _convolve_windows(
    x: Tensor, weight: Tensor, stride: Numbers, padding: Numbers, dilation: Numbers, groups: int
) -> Tensor:
    """Convolve each mapped element with its own weight, as a matrix product."""
    size, n = x.shape[:2]
    out, _, *kernel = weight.shape[1:]
    sizes = zip(x.shape[3:], kernel, stride, padding, dilation, strict=True)
    places = [(length + 2 * p - d * (k - 1) - 1) // s + 1 for length, k, s, p, d in sizes]
    windows = grouped_windows(batch_windows(fold(x), places, kernel, stride, padding, dilation), size, groups)
    matrix = weight.reshape(size, 1, groups, out // groups, windows.shape[3])
    return torch.matmul(matrix, windows).reshape(size, n, out, *places)


LOWERINGS: dict[Any, Lowering] = {aten.convolution.default: convolution}

BATCHING: dict[Any, Callable[..., Any]] = {
    aten.convolution.default: mapped_kernel(aten.convolution.default, _batched),
}
