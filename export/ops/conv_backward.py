"""Derivatives of convolutions by input, weight and bias, as convolutions themselves.

With y = w ∗ x of stride s, padding p, dilation d: the derivative by x is the transposed convolution of ∂y with w; the
one by w is the convolution of x with ∂y, batch and channels exchanged, of stride d and dilation s. For a transposed
convolution x and ∂y change places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import REDUCED, Builder, Rule
from export.ops import windows
from export.ops.conv import spread
from export.ops.reduce import added

aten: Any = torch.ops.aten

ENOUGH = 8
"""Channels from which the derivative by the weight is one product; with fewer, taking the windows out costs more."""


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
    """``aten.convolution_backward``: the derivatives that ``wanted`` asks for, None for the others."""
    rank = len(g.shape_of(weight)) - 2
    if len(g.shape_of(x)) != rank + 2:
        raise g.unsupported("an input without a batch axis; use x.unsqueeze(0)")
    stride, padding, dilation = (spread(v, rank) for v in (stride, padding, dilation))
    by_input = by_weight = by_bias = None
    if wanted[0]:
        rule = _convolved if transposed else _spread_back
        by_input = rule(g, grad, x, weight, stride, padding, dilation, groups)
    if wanted[1]:
        fine, coarse = (grad, x) if transposed else (x, grad)
        by_weight = _by_weight(g, fine, coarse, weight, stride, padding, dilation, groups)
    if wanted[2]:
        value = g.tensor(grad)
        narrow = g.dtypes[value]
        inner = torch.float32 if narrow in REDUCED else narrow
        by_bias = g.cast(added(g, "ReduceSum", grad, g.cast(value, inner), [0, *range(2, rank + 2)], False), narrow)
    return by_input, by_weight, by_bias


def _sizes(g: Builder, arg: Any, what: str) -> list[int]:
    """Return the spatial sizes of a node, which must be fixed."""
    reason = f"the derivative of a strided convolution needs fixed spatial sizes of the {what}"
    return g.fixed(g.shape_of(arg)[2:], reason)


def _spread_back(
    g: Builder,
    grad: Any,
    x: Any,
    weight: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> ir.Value:
    """Return the derivative of a convolution by its input: the transposed convolution, as large as the input."""
    kernel = _sizes(g, weight, "weight")
    found = windows.windows(g, x, grad, weight, stride, padding, dilation) if groups == 1 else None
    if found is not None and math.prod(found.coarse) <= windows.FEW:
        many, few = g.shape_of(weight)[:2]
        flat = g.reshape(g.tensor(weight), [many, few * found.taps])
        sums = g.reshape(windows.across(g, g.tensor(grad), found.rank), [many, -1])
        product = g.op("Gemm", flat, sums, transA=1)
        return windows.spread_back(g, product, few, g.shape_of(x)[0], found)
    if groups == 1 and {*kernel, *stride} == {1} and not any(padding):  # a product, which needs no folding back
        swapped = g.transpose(g.tensor(weight), [1, 0, *range(2, 2 + len(kernel))])
        return g.op("Conv", g.tensor(grad), swapped)
    extra = [0] * len(kernel)
    if any(step > 1 for step in stride):  # of several inputs with one output size, which one it was
        inner, outer = _sizes(g, x, "input"), _sizes(g, grad, "output")
        steps = zip(outer, stride, padding, dilation, kernel, strict=True)
        reached = [(o - 1) * s - 2 * p + d * (k - 1) + 1 for o, s, p, d, k in steps]
        extra = [size - least for size, least in zip(inner, reached, strict=True)]
    return g.op(
        "ConvTranspose",
        g.tensor(grad),
        g.tensor(weight),
        kernel_shape=kernel,
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        group=groups,
        output_padding=extra if any(extra) else None,
    )


def _convolved(
    g: Builder,
    grad: Any,
    x: Any,
    weight: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> ir.Value:
    """Return the derivative of a transposed convolution by its input: the convolution, cut to the input's size."""
    result = g.op(
        "Conv",
        g.tensor(grad),
        g.tensor(weight),
        kernel_shape=_sizes(g, weight, "weight"),
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        group=groups,
    )
    return _cut(g, result, _sizes(g, x, "input"))


def _by_weight(
    g: Builder,
    fine: Any,
    coarse: Any,
    weight: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> ir.Value:
    """Return the derivative by the weight: for each pair of channels the correlation of the two, over the batch.

    Args:
        g: The builder.
        fine: The side with the larger map: the input, or the output's derivative of a transposed convolution.
        coarse: The other side.
        weight: The weight, (channels of coarse, channels of fine / groups, *kernel).
        stride: Of the convolution; here the dilation.
        padding: Of the convolution.
        dilation: Of the convolution; here the stride.
        groups: How many groups of channels there are.
    """
    rank, few = len(stride), int(g.shape_of(weight)[1])
    spatial = list(range(2, 2 + rank))
    found = windows.windows(g, fine, coarse, weight, stride, padding, dilation) if few >= ENOUGH else None
    if found is not None:
        return _by_weight_product(g, fine, coarse, int(g.shape_of(weight)[0]), few, groups, found)
    image, filters = g.tensor(fine), g.transpose(g.tensor(coarse), [1, 0, *spatial])
    if groups == 1:
        image = g.transpose(image, [1, 0, *spatial])
    else:  # (N, groups · few, …) → (few, groups · N, …): the groups side by side in the channels
        sizes = _sizes(g, fine, "input")
        image = g.reshape(image, [g.shape_of(fine)[0], groups, few, *sizes])
        image = g.transpose(image, [2, 1, 0, *(axis + 1 for axis in spatial)])
        image = g.op("Reshape", image, g.constant([few, -1, *sizes]))
    kernel = [g.static(size) for size in g.shape_of(coarse)[2:]]
    result = g.op(
        "Conv",
        image,
        filters,
        kernel_shape=None if None in kernel else kernel,
        strides=dilation,
        pads=[*padding, *padding],
        dilations=stride,
        group=groups,
    )
    if any(step > 1 for step in stride):  # inputs that no window reached are left over
        result = _cut(g, result, _sizes(g, weight, "weight"))
    return g.transpose(result, [1, 0, *spatial])


def _by_weight_product(
    g: Builder, fine: Any, coarse: Any, many: int, few: int, groups: int, found: windows.Windows
) -> ir.Value:
    """The same as one product a group, summed over batch and positions."""
    batch, spatial = g.shape_of(coarse)[0], [axis + 3 for axis in range(found.rank)]
    order = [1, 2, 0, *spatial]
    sums = windows.grouped(g, g.tensor(coarse), batch, groups, many // groups, found.coarse, order)
    patches = windows.rows(g, g.tensor(fine), batch, groups, few, found)
    if groups == 1:
        product = g.op("Gemm", g.reshape(sums, [many, -1]), g.reshape(patches, [-1, found.taps * few]))
    else:
        product = g.op("MatMul", g.reshape(sums, [groups, many // groups, -1]), patches)
    product = g.transpose(g.reshape(product, [many, found.taps, few]), [0, 2, 1])
    return g.reshape(product, [many, few, *found.kernel])


def _cut(g: Builder, value: ir.Value, sizes: Sequence[int]) -> ir.Value:
    """Return the first values along each spatial axis."""
    axes = [axis + 2 for axis in range(len(sizes))]
    return g.op("Slice", value, g.constant([0] * len(axes)), g.constant(list(sizes)), g.constant(axes))


TABLE: dict[Any, Rule] = {aten.convolution_backward.default: convolution_backward}
"""Derivatives of convolutions."""
