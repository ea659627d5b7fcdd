"""The gradient of a convolution with respect to its weight: sums over batch and positions of products of channels.

It is a convolution, batch and channels exchanged, or a product of one side with the windows of the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from export.graph.builder import Builder
from export.graph.onnx_types import accumulation_dtype
from export.ops.shared import windows
from export.ops.shared.long_sums import sum_of

__all__ = [
    "MAX_POSITIONS_PER_OUT_CHANNEL",
    "MAX_VALUES_OF_WINDOWS",
    "MIN_CHANNELS_FOR_ONE_PRODUCT",
    "crop",
    "spatial_sizes",
    "weight_gradient",
]

MIN_CHANNELS_FOR_ONE_PRODUCT = 8
"""Channels from which the gradient w.r.t. the weight is one product; with fewer, extracting windows costs more."""

MAX_VALUES_OF_WINDOWS = 2**22
"""Values of windows side by side that are in memory at once, unless one tap of all windows has more."""

MAX_POSITIONS_PER_OUT_CHANNEL = 2
"""Positions of all maps of a batch, as a multiple of a group's output channels, up to which windows cost less to put
in the order of the weight than a product of windows in another order does to transpose."""


def spatial_sizes(g: Builder, arg: Any, what: str) -> list[int]:
    """Return the spatial sizes of a node, which must be fixed."""
    reason = f"the derivative of a strided convolution needs fixed spatial sizes of the {what}"
    return g.fixed(g.shape_of(arg)[2:], reason)


def weight_gradient(g: Builder, fine: Any, coarse: Any, weight: Any, geometry: windows.Geometry) -> ir.Value:
    """Return the gradient w.r.t. the weight: for each pair of channels their correlation, summed over the batch.

    Args:
        g: the builder.
        fine: the side with the larger map: the input, or a transposed convolution's output gradient.
        coarse: the other side.
        weight: the weight, (channels of coarse, channels of fine / groups, *kernel).
        geometry: that of the convolution; its stride is the dilation here, its dilation the stride.
    """
    stride, padding, groups = geometry.stride, geometry.padding, geometry.groups
    in_channels, spatial = int(g.shape_of(weight)[1]), list(range(2, 2 + len(stride)))
    found = windows.recorded_windows(g, fine, coarse, weight, geometry)
    if found is not None and _is_pointwise(geometry, found):
        return _pointwise_weight_gradient(g, fine, coarse, weight, found)
    if found is not None and in_channels >= MIN_CHANNELS_FOR_ONE_PRODUCT and g.target != "cuda":
        return _weight_gradient_product(g, fine, coarse, int(g.shape_of(weight)[0]), in_channels, groups, found)
    image, filters = g.tensor(fine), g.transpose(g.tensor(coarse), [1, 0, *spatial])
    if groups == 1:
        image = g.transpose(image, [1, 0, *spatial])
    else:  # (N, groups · in_channels, …) → (in_channels, groups · N, …): the groups side by side in the channels
        sizes = spatial_sizes(g, fine, "input")
        image = g.reshape(image, [g.shape_of(fine)[0], groups, in_channels, *sizes])
        image = g.transpose(image, [2, 1, 0, *(axis + 1 for axis in spatial)])
        image = g.op("Reshape", image, g.constant([in_channels, -1, *sizes]))
    kernel = [g.static(size) for size in g.shape_of(coarse)[2:]]
    result = g.op(
        "Conv",
        image,
        filters,
        kernel_shape=None if None in kernel else kernel,
        strides=geometry.dilation,
        pads=[*padding, *padding],
        dilations=stride,
        group=groups,
    )
    if any(step > 1 for step in stride):  # inputs that no window reached are left over
        result = crop(g, result, spatial_sizes(g, weight, "weight"))
    return g.transpose(result, [1, 0, *spatial])


def _is_pointwise(geometry: windows.Geometry, found: windows.Windows) -> bool:
    return geometry.groups == 1 and set(found.kernel) == {1} and not any(found.padding)


def _pointwise_weight_gradient(g: Builder, fine: Any, coarse: Any, weight: Any, found: windows.Windows) -> ir.Value:
    """Return the sum over batch and positions of products of the channels.

    A product an image leaves both maps as they are (ONNX Runtime reads one of them transposed), and writes a weight an
    image; where that is larger than the maps, batch and channels are exchanged for one product.
    """
    batch, (out_channels, in_channels), places = g.shape_of(coarse)[0], g.shape_of(weight)[:2], math.prod(found.coarse)
    image = g.tensor(fine)
    if set(found.stride) != {1}:
        axes = [axis + 2 for axis in range(found.rank)]
        parts = ([0] * found.rank, list(found.fine), axes, list(found.stride))
        image = g.op("Slice", image, *map(g.constant, parts))
    sides = [(image, in_channels), (g.tensor(coarse), out_channels)]
    if places * (in_channels + out_channels) < in_channels * out_channels:
        columns, rows = (g.reshape(_swapped(g, side, found.rank), [n, -1]) for side, n in sides)
        return g.reshape(g.op("Gemm", rows, columns, transB=1), list(g.shape_of(weight)))
    columns, rows = (g.reshape(side, [batch, channels, places]) for side, channels in sides)
    products = g.op("MatMul", rows, g.transpose(columns, [0, 2, 1]))
    narrow = g.dtypes[products]
    sizes = [batch, out_channels, in_channels]
    total = sum_of(g, g.cast(products, accumulation_dtype(narrow)), sizes, [0], False)
    return g.reshape(g.cast(total, narrow), list(g.shape_of(weight)))


def _swapped(g: Builder, value: ir.Value, rank: int) -> ir.Value:
    """Exchange batch and channels."""
    return g.transpose(value, [1, 0, *range(2, 2 + rank)])


def _weight_gradient_product(
    g: Builder, fine: Any, coarse: Any, out_channels: int, in_channels: int, groups: int, found: windows.Windows
) -> ir.Value:
    """Compute the same by matrix products, which sum over batch and positions.

    Large maps take a product for each run of taps of the window, and so do batches of any size: all windows side by
    side are as many times the map as there are taps.
    """
    parts, images = found.taps, g.static(g.shape_of(coarse)[0])
    positions = None if images is None else math.prod(found.coarse) * images
    if positions is not None:
        values = positions * found.taps * in_channels * groups
        parts = min(found.taps, math.ceil(values / MAX_VALUES_OF_WINDOWS) or 1)
    few = positions is not None and positions * groups <= MAX_POSITIONS_PER_OUT_CHANNEL * out_channels
    if found.copy_the_map or (parts == 1 and few):
        product = _product_with_columns(g, fine, coarse, out_channels, in_channels, groups, found)
    else:
        product = _product_with_rows(g, fine, coarse, out_channels, in_channels, groups, found, parts)
    return g.reshape(product, [out_channels, in_channels, *found.kernel])


def _product_with_columns(
    g: Builder, fine: Any, coarse: Any, out_channels: int, in_channels: int, groups: int, found: windows.Windows
) -> ir.Value:
    """Multiply with windows in the order of the weight, so that the product is the weight's gradient."""
    batch = g.shape_of(coarse)[0]
    sums = windows.batch_last(g, g.tensor(coarse), batch, out_channels, found.coarse)
    columns = windows.window_columns(g, g.tensor(fine), batch, groups * in_channels, found)
    if groups == 1:
        return g.op("Gemm", g.reshape(sums, [out_channels, -1]), columns, transB=1)
    columns = g.reshape(columns, [groups, in_channels * found.taps, -1])
    rows = g.reshape(sums, [groups, out_channels // groups, -1])
    return g.op("MatMul", rows, g.transpose(columns, [0, 2, 1]))


def _product_with_rows(
    g: Builder,
    fine: Any,
    coarse: Any,
    out_channels: int,
    in_channels: int,
    groups: int,
    found: windows.Windows,
    parts: int,
) -> ir.Value:
    """Multiply with windows in an order that is made by copies of rows, and put the product in that of the weight."""
    batch, order = g.shape_of(coarse)[0], [1, 2, 0, *range(3, 3 + found.rank)]
    sums = windows.grouped(g, g.tensor(coarse), batch, groups, out_channels // groups, found.coarse, order)
    runs = windows.window_rows(g, g.tensor(fine), batch, groups, in_channels, found, parts)
    if groups == 1:
        rows = g.reshape(sums, [out_channels, -1])
        products = [g.op("Gemm", rows, run) for run in runs]
    else:
        rows = g.reshape(sums, [groups, out_channels // groups, -1])
        products = [g.op("MatMul", rows, run) for run in runs]
    product = products[0] if len(products) == 1 else g.op("Concat", *products, axis=-1)
    if found.taps == 1:
        return product
    return g.transpose(g.reshape(product, [out_channels, found.taps, in_channels]), [0, 2, 1])


def crop(g: Builder, value: ir.Value, sizes: Sequence[int]) -> ir.Value:
    """Return the first values along each spatial axis."""
    axes = [axis + 2 for axis in range(len(sizes))]
    return g.op("Slice", value, g.constant([0] * len(axes)), g.constant(list(sizes)), g.constant(axes))
