"""Gradients of convolutions with respect to input, weight and bias, as convolutions or matrix products.

With y = w ∗ x of stride s, padding p and dilation d: the gradient w.r.t. x is the transposed convolution of ∂y with w;
the gradient w.r.t. w is the convolution of x with ∂y, batch and channels exchanged, of stride d and dilation s. For a
transposed convolution x and ∂y change places. `vmap` is handled as in `convolution`.

On a CPU a product of windows, made of Pad, Gather and Gemm, is faster than such a convolution; on a GPU each of its
nodes is a launch that moves the whole map, so files for CUDA keep Conv and ConvTranspose.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import Node

from export.graph.builder import Builder, Lowering
from export.graph.onnx_types import accumulation_dtype
from export.ops.convolution import (
    Numbers,
    batch_windows,
    grouped_windows,
    is_number,
    merge_mapped,
    per_axis,
    split_mapped,
)
from export.ops.shared import windows
from export.ops.shared.kernels import fold, mapped_kernel, mapped_size, unfold, with_mapped_axis
from export.ops.shared.long_sums import sum_of
from export.ops.shared.weight_gradients import crop, spatial_sizes, weight_gradient

__all__ = ["BATCHING", "LOWERINGS", "weight_gradient_by_windows"]

aten: Any = torch.ops.aten

MIN_POSITIONS_FOR_CONVOLUTION = 2**11
"""Positions of all maps of a batch from which turning a weight is a small part of a transposed convolution's work."""

MIN_POSITIONS_OF_A_MAP = 2**8
"""Positions of one map from which, if they are as many as its channels, ONNX Runtime's convolution is a fast one."""


def convolution_backward(
    g: Builder,
    node: Node,
    grad: Any,
    x: Any,
    weight: Any,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[ir.Value | None, ...]:
    """Return the gradients w.r.t. input, weight and bias; None for those not `wanted`."""
    rank = len(g.shape_of(weight)) - 2
    if len(g.shape_of(x)) != rank + 2:
        raise g.unsupported("an input without a batch axis; use x.unsqueeze(0)")
    geometry = windows.Geometry(per_axis(stride, rank), per_axis(padding, rank), per_axis(dilation, rank), groups)
    d_input = d_weight = d_bias = None
    if wanted[1]:  # before that of the input, which is as large as the input, whose last reader this is
        fine, coarse = (grad, x) if transposed else (x, grad)
        d_weight = weight_gradient(g, fine, coarse, weight, geometry)
    if wanted[2]:
        value = g.tensor(grad)
        narrow = g.dtypes[value]
        inner = accumulation_dtype(narrow)
        total = sum_of(g, g.cast(value, inner), g.shape_of(grad), [0, *range(2, rank + 2)], False)
        d_bias = g.cast(total, narrow)
    if wanted[0]:
        rule = _transposed_input_gradient if transposed else _input_gradient
        d_input = rule(g, grad, x, weight, geometry)
    return d_input, d_weight, d_bias


def _input_gradient(g: Builder, grad: Any, x: Any, weight: Any, geometry: windows.Geometry) -> ir.Value:
    """Return a convolution's gradient w.r.t. its input: a transposed convolution, or a convolution that is the same."""
    kernel = spatial_sizes(g, weight, "weight")
    stride, padding = geometry.stride, geometry.padding
    found = windows.recorded_windows(g, x, grad, weight, geometry) if geometry.groups == 1 else None
    if found is not None and g.target != "cuda" and found.pay_as_one_product(g, weight, x):
        out_channels, in_channels = g.shape_of(weight)[:2]
        flat = g.reshape(g.tensor(weight), [out_channels, in_channels * found.taps])
        batch = g.shape_of(x)[0]
        sums = windows.positions_first(g, g.tensor(grad), batch, out_channels, found.coarse)
        return windows.fold_windows(g, g.op("Gemm", sums, flat), batch, in_channels, found)
    if g.target != "cuda" and _pays_as_convolution(g, grad, weight, kernel, geometry):
        return _input_gradient_by_convolution(g, grad, weight, kernel, geometry)
    extra = [0] * len(kernel)
    if any(step > 1 for step in stride):  # several input sizes give this output size
        inner, outer = spatial_sizes(g, x, "input"), spatial_sizes(g, grad, "output")
        steps = zip(outer, stride, padding, geometry.dilation, kernel, strict=True)
        reached = [(o - 1) * s - 2 * p + d * (k - 1) + 1 for o, s, p, d, k in steps]
        extra = [size - least for size, least in zip(inner, reached, strict=True)]
    attributes = {"kernel_shape": kernel, **geometry.attributes(), "output_padding": extra if any(extra) else None}
    return g.op("ConvTranspose", g.tensor(grad), g.tensor(weight), **attributes)


def _pays_as_convolution(g: Builder, grad: Any, weight: Any, kernel: Sequence[int], geometry: windows.Geometry) -> bool:
    """Whether exchanging and turning the weight costs less than ONNX Runtime's transposed convolution does more.

    That unfolds the result, all taps of it, and adds them up; a convolution unfolds its argument. A GPU needs neither.
    """
    reach = [d * (k - 1) for d, k in zip(geometry.dilation, kernel, strict=True)]
    if set(geometry.stride) != {1} or any(p > r for p, r in zip(geometry.padding, reach, strict=True)):
        return False
    groups, in_channels = g.static(geometry.groups), g.static(g.shape_of(weight)[1])
    if groups is None or in_channels is None:
        return False
    batch, _, *places = (g.static(size) or 1 for size in g.shape_of(grad))
    positions, channels = math.prod(places), in_channels * groups
    large = positions >= max(MIN_POSITIONS_OF_A_MAP, channels) and batch * positions >= MIN_POSITIONS_FOR_CONVOLUTION
    return large or set(kernel) == {1}


def _input_gradient_by_convolution(
    g: Builder, grad: Any, weight: Any, kernel: Sequence[int], geometry: windows.Geometry
) -> ir.Value:
    """Convolve with the weight, its channels exchanged within their group and its taps in reverse."""
    groups, rank = geometry.groups, len(kernel)
    spatial = list(range(2, 2 + rank))
    turned = g.tensor(weight)
    outer, inner = g.shape_of(weight)[:2]
    if groups == 1:
        turned = g.transpose(turned, [1, 0, *spatial])
    else:
        turned = g.reshape(turned, [groups, outer // groups, inner, *kernel])
        turned = g.reshape(
            g.transpose(turned, [0, 2, 1, *range(3, 3 + rank)]), [groups * inner, outer // groups, *kernel]
        )
    axes = [axis for axis, size in zip(spatial, kernel, strict=True) if size > 1]
    if axes:
        last, before_first = [-1] * len(axes), [-(2**31)] * len(axes)
        turned = g.op("Slice", turned, *map(g.constant, (last, before_first, axes, last)))
    pads = [d * (k - 1) - p for d, k, p in zip(geometry.dilation, kernel, geometry.padding, strict=True)]
    flat = dataclasses.replace(geometry, padding=pads)
    return g.op("Conv", g.tensor(grad), turned, kernel_shape=list(kernel), **flat.attributes())


def _transposed_input_gradient(g: Builder, grad: Any, x: Any, weight: Any, geometry: windows.Geometry) -> ir.Value:
    """Return a transposed convolution's gradient w.r.t. its input: the convolution, cut to the input's size."""
    attributes = {"kernel_shape": spatial_sizes(g, weight, "weight"), **geometry.attributes()}
    result = g.op("Conv", g.tensor(grad), g.tensor(weight), **attributes)
    return crop(g, result, spatial_sizes(g, x, "input"))


def _batched(
    mapped: Sequence[bool],
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Numbers,
    padding: Numbers,
    dilation: Numbers,
    transposed: bool,
    output_padding: Numbers,
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Compute `aten.convolution_backward` under `vmap`."""
    size = mapped_size(mapped[:3], (grad, x, weight))
    settings = (stride, padding, dilation, transposed, output_padding)

    def run(which: int, grad: Tensor, x: Tensor, weight: Tensor, groups: Any) -> Tensor:
        mask = [position == which for position in range(3)]
        result: Tensor = aten.convolution_backward.default(grad, x, weight, None, *settings, groups, mask)[which]
        return result

    def input_gradient() -> Tensor:
        if not mapped[2]:
            flat = fold(with_mapped_axis(grad, mapped[0], size)), fold(with_mapped_axis(x, mapped[1], size))
            return unfold(run(0, *flat, weight, groups), size, x.shape[mapped[1]])
        each = (
            merge_mapped(with_mapped_axis(grad, mapped[0], size), 1, 1),
            merge_mapped(with_mapped_axis(x, mapped[1], size), 1, 1),
        )
        return split_mapped(run(0, *each, fold(weight), groups * size), 1, 1, size)

    def weight_gradient() -> Tensor:
        shape = weight.shape[mapped[2] :]
        if not (mapped[0] or mapped[1]):
            like = weight.new_zeros(()).expand(shape)
            return with_mapped_axis(run(1, grad, x, like, groups), False, size)
        if mapped[0] and mapped[1]:
            if not is_number(size):
                fine, coarse = (grad, x) if transposed else (x, grad)
                return weight_gradient_by_windows(fine, coarse, shape, stride, padding, dilation, groups)
            like = weight.new_zeros(()).expand(size * shape[0], *shape[1:])
            return unfold(run(1, merge_mapped(grad, 1, 1), merge_mapped(x, 1, 1), like, groups * size), size, shape[0])
        # The weight's axis 0 counts the coarse side's channels, its axis 1 those of the fine side within a group.
        axis = int(mapped[0] == transposed)
        like = weight.new_zeros(()).expand(*shape[:axis], size * shape[axis], *shape[axis + 1 :])
        wide_grad, wide_x = (merge_mapped(grad, 1, groups), x) if mapped[0] else (grad, merge_mapped(x, 1, groups))
        return split_mapped(run(1, wide_grad, wide_x, like, groups), axis, groups if axis == 0 else 1, size)

    def bias_gradient() -> Tensor:
        full = with_mapped_axis(grad, mapped[0], size)
        return full.sum([1, *range(3, full.dim())])

    rules = (input_gradient, weight_gradient, bias_gradient)
    return tuple(rule() if is_wanted else None for rule, is_wanted in zip(rules, wanted, strict=True))


def weight_gradient_by_windows(
    fine: Tensor,
    coarse: Tensor,
    shape: Sequence[int],
    stride: Numbers,
    padding: Numbers,
    dilation: Numbers,
    groups: int,
) -> Tensor:
    """Return each element's gradient w.r.t. its weight: products of the coarse side with windows of the fine one."""
    size, n, channels, *places = coarse.shape
    windows = grouped_windows(batch_windows(fold(fine), places, shape[2:], stride, padding, dilation), size, groups)
    rows = coarse.reshape(size, n, groups, channels // groups, windows.shape[4])
    return torch.matmul(rows, windows.transpose(3, 4)).sum(1).reshape(size, *shape)


LOWERINGS: dict[Any, Lowering] = {aten.convolution_backward.default: convolution_backward}

BATCHING: dict[Any, Callable[..., Any]] = {
    aten.convolution_backward.default: mapped_kernel(aten.convolution_backward.default, _batched),
}
