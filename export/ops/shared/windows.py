"""A convolution's windows as the rows or columns of one matrix, so that one product serves the whole batch.

ONNX Runtime's convolution makes one small product an image. Where an image has few positions, or where the sum runs
over batch and positions, as in the gradient w.r.t. the weight, one large product is several times faster.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from export.graph.builder import Builder

__all__ = [
    "MAX_POSITIONS_FOR_ONE_PRODUCT",
    "MIN_IMAGES_FOR_ONE_PRODUCT",
    "MIN_WEIGHT_FOR_ONE_PRODUCT",
    "Geometry",
    "Windows",
    "fold_windows",
    "grouped",
    "recorded_windows",
    "swap_batch_and_channels",
    "window_columns",
    "window_rows",
]


MAX_POSITIONS_FOR_ONE_PRODUCT = 9
"""Positions of an output image up to which one product for the batch is faster than a convolution's per image."""

MIN_IMAGES_FOR_ONE_PRODUCT = 4
"""Images from which it is."""

MIN_WEIGHT_FOR_ONE_PRODUCT = 2**19
"""Values of the weight from which it is: such a weight is read from memory for each image."""


@dataclass(frozen=True)
class Geometry:
    """What a convolution is called with beside its tensors; one number per spatial axis.

    Attributes:
        stride: steps between windows.
        padding: zeros on both sides of the map that windows are taken from.
        dilation: steps inside a window.
        groups: number of groups of channels.
    """

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of Conv and ConvTranspose; ONNX lists the pads before all axes, then those after."""
        pads = [*self.padding, *self.padding]
        return {"strides": self.stride, "pads": pads, "dilations": self.dilation, "group": self.groups}


@dataclass(frozen=True)
class Windows:
    """Where the windows of a convolution lie, the same in each of its groups.

    Attributes:
        fine: spatial sizes of the map that windows are taken from.
        coarse: spatial sizes of the map with one position a window.
        kernel: sizes of a window.
        stride: steps between windows.
        padding: zeros before the fine map; as many as are needed follow it.
        dilation: steps inside a window.
    """

    fine: tuple[int, ...]
    coarse: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.fine)

    def pay_as_one_product(self, g: Builder, weight: Any, x: Any) -> bool:
        """Whether one product for the batch, which reads the weight once, is faster than a convolution's per image."""
        few = math.prod(self.coarse) <= MAX_POSITIONS_FOR_ONE_PRODUCT
        batch, *sizes = (g.static(size) for size in (g.shape_of(x)[0], *g.shape_of(weight)))
        many = batch is None or batch >= MIN_IMAGES_FOR_ONE_PRODUCT
        return few and many and math.prod(size or 1 for size in sizes) >= MIN_WEIGHT_FOR_ONE_PRODUCT

    @property
    def are_the_map(self) -> bool:
        """Whether each window is one value, and each value of the padded map one window."""
        return self.taps == 1 and set(self.stride) == {1}

    @property
    def taps(self) -> int:
        """Number of values in a window."""
        return math.prod(self.kernel)

    def padded(self) -> list[int]:
        """Return the spatial sizes that the windows cover together."""
        steps = zip(self.coarse, self.stride, self.dilation, self.kernel, strict=True)
        return [(c - 1) * s + d * (k - 1) + 1 for c, s, d, k in steps]

    def places(self) -> torch.Tensor:
        """Return where each window has each of its taps in the flattened padded map, of shape (positions, taps)."""
        flat = torch.arange(math.prod(self.padded())).reshape(self.padded())
        for axis, (k, s, d) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            flat = flat.unfold(axis, d * (k - 1) + 1, s)[..., ::d]
        return flat.reshape(-1, self.taps)

    def offsets(self) -> list[tuple[int, ...]]:
        """Return for each tap of a window its first position in the padded map."""
        return list(itertools.product(*(range(0, k * d, d) for k, d in zip(self.kernel, self.dilation, strict=True))))


def recorded_windows(g: Builder, fine: Any, coarse: Any, weight: Any, geometry: Geometry) -> Windows | None:
    """Return the windows of a recorded convolution, None where a spatial size is dynamic."""
    sizes = [[g.static(size) for size in g.shape_of(arg)[2:]] for arg in (fine, coarse, weight)]
    known = [tuple(size for size in part if size is not None) for part in sizes]
    if [len(part) for part in known] != [len(part) for part in sizes]:
        return None
    settings = (geometry.stride, geometry.padding, geometry.dilation)
    return Windows(known[0], known[1], known[2], *map(tuple, settings))


def window_rows(
    g: Builder, x: ir.Value, batch: Any, groups: int, channels: int, w: Windows, parts: int = 1
) -> Iterator[ir.Value]:
    """Return (groups, batch · positions, taps · channels) of a map (batch, groups · channels, *fine), by runs of taps.

    With one group, its axis is left out. Each run is made when it is asked for, so that what reads it can stand beside
    it: a graph runs in the order it is made, and one run at a time is in memory.
    """
    lead = [] if groups == 1 else [groups]
    last = _padded(g, _channels_last(g, x, batch, groups, channels, w), w, 1)
    if w.are_the_map:
        yield g.reshape(last, [*lead, -1, channels])
        return
    flat = g.reshape(last, [groups, batch, math.prod(w.padded()), channels])
    for places in w.places().to(torch.int32).tensor_split(parts, dim=1):
        rows = g.op("Gather", flat, g.tensor_constant(places), axis=2)
        yield g.reshape(rows, [*lead, -1, places.shape[1] * channels])


def _channels_last(g: Builder, x: ir.Value, batch: Any, groups: int, channels: int, w: Windows) -> ir.Value:
    """Return a map (batch, groups · channels, *fine) as (groups, batch, *fine, channels)."""
    if groups == 1:  # one axis is moved alone, for which ONNX Runtime has a faster transpose
        return g.reshape(g.transpose(x, [0, *range(2, 2 + w.rank), 1]), [1, batch, *w.fine, channels])
    return grouped(g, x, batch, groups, channels, w.fine, [1, 0, *range(3, 3 + w.rank), 2])


def grouped(
    g: Builder, x: ir.Value, batch: Any, groups: int, channels: int, spatial: Sequence[int], order: Sequence[int]
) -> ir.Value:
    """Return a map with its axes (batch, groups, channels, *space) in another order."""
    return g.transpose(g.reshape(x, [batch, groups, channels, *spatial]), order)


def window_columns(g: Builder, x: ir.Value, channels: int, w: Windows) -> ir.Value:
    """Return (channels · taps, batch · positions) of a map (batch, channels, *fine)."""
    first = swap_batch_and_channels(g, x, w.rank)
    if w.are_the_map:
        return g.reshape(_padded(g, first, w, 0), [channels, -1])
    taps = [g.reshape(tap, [channels, 1, -1]) for tap in _taps(g, first, w, 0)]
    return g.reshape(g.op("Concat", *taps, axis=1), [channels * w.taps, -1])


def swap_batch_and_channels(g: Builder, x: ir.Value, rank: int) -> ir.Value:
    """Exchange batch and channels."""
    return g.transpose(x, [1, 0, *range(2, 2 + rank)])


def _taps(g: Builder, x: ir.Value, w: Windows, behind_space: int) -> Iterator[ir.Value]:
    """Return for each tap the values that all windows have there; two axes precede the spatial ones."""
    x = _padded(g, x, w, behind_space)
    if w.are_the_map:
        yield x
        return
    axes, steps = g.constant(list(range(2, 2 + w.rank))), g.constant(list(w.stride))
    for offset in w.offsets():
        ends = [o + (c - 1) * s + 1 for o, c, s in zip(offset, w.coarse, w.stride, strict=True)]
        yield g.op("Slice", x, g.constant(list(offset)), g.constant(ends), axes, steps)


def _padded(g: Builder, x: ir.Value, w: Windows, behind_space: int) -> ir.Value:
    """Return the map that the windows cover; two axes precede the spatial ones."""
    tail = [0] * behind_space
    behind = [p - f - b for p, f, b in zip(w.padded(), w.fine, w.padding, strict=True)]
    return pad(g, x, [0, 0, *w.padding, *tail, 0, 0, *behind, *tail])


def pad(g: Builder, x: ir.Value, pads: Sequence[int]) -> ir.Value:
    """Pad with zeros, or crop where a number is negative; the fronts of all axes come first."""
    return g.op("Pad", x, g.constant(list(pads))) if any(pads) else x


def fold_windows(g: Builder, product: ir.Value, channels: int, batch: Any, w: Windows) -> ir.Value:
    """Sum windows where they overlap: (channels · taps, batch · positions) → (batch, channels, *fine)."""
    rank = w.rank
    inner = w.coarse
    value = g.reshape(product, [channels, w.taps, batch, *inner])
    if any(step > 1 for step in w.stride):  # zeros between the positions
        apart = [size for c in w.coarse for size in (c, 1)]
        inner = tuple(c * s for c, s in zip(w.coarse, w.stride, strict=True))
        value = g.reshape(value, [channels, w.taps, batch, *apart])
        value = pad(g, value, [0] * (3 + 2 * rank) + [0, 0, 0] + [n for s in w.stride for n in (0, s - 1)])
    value = g.reshape(value, [channels, w.taps, batch, *inner])
    total = None
    for i, offset in enumerate(w.offsets()):
        tap = g.op("Slice", value, g.constant([i]), g.constant([i + 1]), g.constant([1]))
        front = [o - p for o, p in zip(offset, w.padding, strict=True)]
        behind = [f - n - a for f, n, a in zip(w.fine, inner, front, strict=True)]
        placed = pad(g, g.reshape(tap, [channels, batch, *inner]), [0, 0, *front, 0, 0, *behind])
        total = placed if total is None else g.op("Add", total, placed)
    if total is None:
        raise AssertionError("a window holds at least one value")
    return swap_batch_and_channels(g, total, rank)
