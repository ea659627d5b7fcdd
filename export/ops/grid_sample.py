"""Sampling an image at positions that are given: ONNX's GridSample, and its gradient from elementary operators.

Each sample is a mean of the image's values at a few positions an axis, its taps: two of them bilinearly, four
bicubically, one to the nearest value. The gradient w.r.t. the image adds at those positions; that w.r.t. the grid takes
the derivatives of their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import Node

from export.graph.builder import Builder, Lowering
from export.graph.onnx_types import accumulation_dtype
from export.ops.shared.kernels import folded

__all__ = ["BATCHING", "DECOMPOSITIONS", "LOWERINGS"]

aten: Any = torch.ops.aten

BILINEAR, NEAREST, BICUBIC = range(3)
ZEROS, BORDER, REFLECTION = range(3)

CUBIC = -0.75
"""Keys' constant of cubic convolution, as in PyTorch."""

RENAMED_MODES = 20
"""The opset from which GridSample names its modes otherwise and takes float64."""


def grid_sample(g: Builder, node: Node, x: Any, grid: Any, mode: int, padding: int, align_corners: bool) -> ir.Value:
    """Lower to GridSample."""
    renamed = g.opset >= RENAMED_MODES
    modes = ("linear", "nearest", "cubic") if renamed else ("bilinear", "nearest", "bicubic")
    value, places = g.tensor(x), g.tensor(grid)
    dtype = g.dtypes[value]
    inner = accumulation_dtype(dtype)
    if inner == torch.float64 and not renamed:
        raise g.unsupported(f"GridSample takes float64 from opset {RENAMED_MODES} on")
    sampled = g.op(
        "GridSample",
        g.cast(value, inner),
        g.cast(places, inner),
        mode=modes[mode],
        padding_mode=("zeros", "border", "reflection")[padding],
        align_corners=int(align_corners),
    )
    return g.cast(sampled, dtype)


@dataclass(frozen=True)
class Taps:
    """Where samples read along one axis; each tensor has the taps between the batch and the axes of the grid.

    There they are far from the last axis: ONNX Runtime broadcasts slowly along short last axes.

    Attributes:
        position: index of the value, inside the image.
        weight: share of the value in the sample, 0 for positions outside.
        slope: derivative of the weight w.r.t. the grid's coordinate; None for weights that do not depend on it.
    """

    position: Tensor
    weight: Tensor
    slope: Tensor | None


def _in_image(place: Tensor, size: Any, padding: int, align_corners: bool) -> tuple[Tensor, Tensor | float]:
    """Return positions moved into the image as the padding says, and their derivative: 0 beyond a border and on it."""
    slope: Tensor | float = 1.0
    if padding == REFLECTION:
        low, span = (0.0, size - 1) if align_corners else (-0.5, size)
        if align_corners and size == 1:
            return torch.zeros_like(place), 0.0
        away = place - low
        distance = away.abs()
        flips = torch.floor(distance / span)
        extra = distance - flips * span
        odd = torch.remainder(flips, 2) == 1
        slope = torch.where(odd, -1.0, 1.0) * torch.where(away < 0, -1.0, 1.0)
        place = torch.where(odd, span - extra, extra) + low
    if padding in (BORDER, REFLECTION):
        slope = torch.where((place > 0) & (place < size - 1), slope, 0.0)
        place = place.clamp(min=0).clamp(max=size - 1)
    return place, slope


def _cubic(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of the four taps at distance t behind the second, and their derivatives, on axis 1."""

    def inner(d: Tensor) -> tuple[Tensor, Tensor]:
        return ((CUBIC + 2) * d - (CUBIC + 3)) * d * d + 1, (3 * (CUBIC + 2) * d - 2 * (CUBIC + 3)) * d

    def outer(d: Tensor) -> tuple[Tensor, Tensor]:
        value = ((CUBIC * d - 5 * CUBIC) * d + 8 * CUBIC) * d - 4 * CUBIC
        return value, (3 * CUBIC * d - 10 * CUBIC) * d + 8 * CUBIC

    (a, da), (b, db), (c, dc), (d, dd) = outer(t + 1), inner(t), inner(1 - t), outer(2 - t)
    return torch.stack([a, b, c, d], 1), torch.stack([da, db, -dc, -dd], 1)


def _taps(coordinate: Tensor, size: Any, mode: int, padding: int, align_corners: bool) -> Taps:
    """Return the taps of one axis for coordinates from -1 to 1."""
    scale = (size - 1) / 2 if align_corners else size / 2
    place = (coordinate + 1) * scale if align_corners else (coordinate + 1) * scale - 0.5
    if mode == BICUBIC:
        first = torch.floor(place)
        weight, slope = _cubic(place - first)
        slope = slope * scale
        steps = torch.arange(-1, 3, device=place.device, dtype=place.dtype)
        index, _ = _in_image(first.unsqueeze(1) + steps.reshape(4, 1, 1), size, padding, align_corners)
        index = torch.round(index)
    else:
        place, moved = _in_image(place, size, padding, align_corners)
        moved = moved * scale
        if mode == NEAREST:
            index = torch.round(place).unsqueeze(1)
            weight, slope = torch.ones_like(index), None
        else:
            first = torch.floor(place)
            part = place - first
            weight = torch.stack([1 - part, part], 1)
            steps = torch.arange(2, device=place.device, dtype=place.dtype)
            index = first.unsqueeze(1) + steps.reshape(2, 1, 1)
            rise = torch.ones_like(part) * moved
            slope = torch.stack([-rise, rise], 1)
    inside = ((index >= 0) & (index <= size - 1)).to(weight.dtype)
    return Taps(
        index.clamp(min=0).clamp(max=size - 1).to(torch.int64),
        weight * inside,
        None if slope is None else slope * inside,
    )


def _backward(
    grad: Tensor,
    x: Tensor,
    grid: Tensor,
    mode: int,
    padding: int,
    align_corners: bool,
    output_mask: Sequence[bool],
) -> Any:
    """Return the gradients of `grid_sampler_2d` w.r.t. image and grid."""
    images, channels, height, width = x.shape
    across = _taps(grid[..., 0], width, mode, padding, align_corners)
    down = _taps(grid[..., 1], height, mode, padding, align_corners)
    places = down.position.unsqueeze(2) * width + across.position.unsqueeze(1)
    vertical, horizontal, rows, columns = places.shape[1:]
    flat = places.reshape(images, 1, -1).expand(images, channels, vertical * horizontal * rows * columns)
    each = grad.reshape(images, channels, 1, 1, rows, columns)
    of_image = of_grid = None
    if output_mask[0]:
        weights = (down.weight.unsqueeze(2) * across.weight.unsqueeze(1)).unsqueeze(1)
        empty = torch.zeros_like(x).reshape(images, channels, height * width)
        added = empty.scatter_add(2, flat, (each * weights).reshape(images, channels, -1))
        of_image = added.reshape(x.shape)
    if output_mask[1]:
        if across.slope is None or down.slope is None:
            return of_image, torch.zeros_like(grid)
        values = x.reshape(images, channels, height * width).gather(2, flat)
        values = values.reshape(images, channels, vertical, horizontal, rows, columns)
        along = (values * each).sum(1)
        x_part = (along * down.weight.unsqueeze(2) * across.slope.unsqueeze(1)).sum((1, 2))
        y_part = (along * down.slope.unsqueeze(2) * across.weight.unsqueeze(1)).sum((1, 2))
        of_grid = torch.stack([x_part, y_part], -1)
    return of_image, of_grid


LOWERINGS: dict[Any, Lowering] = {aten.grid_sampler_2d.default: grid_sample}

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {aten.grid_sampler_2d_backward.default: _backward}

BATCHING: dict[Any, Callable[..., Any]] = folded(aten.grid_sampler_2d.default, aten.grid_sampler_2d_backward.default)
