"""A convolution's windows as the rows or columns of one matrix, so that one product serves the whole batch.

ONNX Runtime's convolution makes one small product an image. Where an image has few positions, or where the sum runs
over batch and positions, as in the gradient w.r.t. the weight, one large product is several times faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from export.graph.builder import Builder

__all__ = [
    "MAX_POSITIONS_FOR_ONE_POINTWISE_PRODUCT",
    "MAX_POSITIONS_FOR_ONE_PRODUCT",
    "MIN_IMAGES_FOR_ONE_PRODUCT",
    "MIN_WEIGHT_FOR_ONE_PRODUCT",
    "Geometry",
    "Windows",
    "batch_last",
    "fold_windows",
    "grouped",
    "positions_first",
    "recorded_windows",
    "window_columns",
    "window_rows",
]


MAX_POSITIONS_FOR_ONE_PRODUCT = 16
"""Positions of an output image up to which one product for the batch is faster than a convolution's per image."""

MAX_POSITIONS_FOR_ONE_POINTWISE_PRODUCT = 9
"""The same where windows are single values, which a convolution reads as they lie."""

MIN_IMAGES_FOR_ONE_PRODUCT = 4
"""Images from which it is."""

MIN_WEIGHT_FOR_ONE_PRODUCT = 2**13
"""Values of the weight from which it is: the work for an image is then more than what a product adds in nodes."""


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
        most = MAX_POSITIONS_FOR_ONE_PRODUCT if self.taps > 1 else MAX_POSITIONS_FOR_ONE_POINTWISE_PRODUCT
        few = math.prod(self.coarse) <= most
        batch, *sizes = (g.static(size) for size in (g.shape_of(x)[0], *g.shape_of(weight)))
        many = batch is None or batch >= MIN_IMAGES_FOR_ONE_PRODUCT
        return few and many and math.prod(size or 1 for size in sizes) >= MIN_WEIGHT_FOR_ONE_PRODUCT

    @property
    def are_the_map(self) -> bool:
        """Whether each window is one value, and each value of the padded map one window."""
        return self.taps == 1 and set(self.stride) == {1}

    @property
    def copy_the_map(self) -> bool:
        """Whether they are the map itself, to which no zeros are added."""
        return self.are_the_map and self.coarse == self.fine

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

    def sources(self) -> torch.Tensor:
        """Return where each window has each of its taps in the flattened map, whose size stands for a place outside.

        The shape is (positions, taps).
        """
        flat = torch.arange(math.prod(self.fine)).reshape(self.fine)
        sides = zip(self.padded(), self.fine, self.padding, strict=True)
        pads = [amount for size, fine, before in reversed(list(sides)) for amount in (before, size - fine - before)]
        return torch.constant_pad_nd(flat, pads, flat.numel()).flatten()[self.places()]

    def sinks(self) -> torch.Tensor:
        """Return for each position of the map the entries of flattened `sources` that are it, one row a position.

        Rows are as long as the longest; the number of entries fills those that are shorter.
        """
        sources, size = self.sources().flatten(), math.prod(self.fine)
        counts = sources.bincount(minlength=size + 1).tolist()
        found = list(sources.argsort(stable=True).split(counts))
        found[size] = torch.tensor([len(sources)])  # a row is not empty, even if no window reaches the map
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=len(sources))[:size]


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
    """Return a map (batch, groups · channels, *fine) as (groups, batch, *fine, channels).

    ONNX Runtime has a faster transpose for one axis that is moved alone, so that two of them cost less than one of all.
    """
    positions = math.prod(w.fine)
    last = g.transpose(g.reshape(x, [batch, groups, channels, positions]), [0, 1, 3, 2])
    if groups > 1 and g.static(batch) != 1:
        last = g.transpose(last, [1, 0, 2, 3])
    return g.reshape(last, [groups, batch, *w.fine, channels])


def grouped(
    g: Builder, x: ir.Value, batch: Any, groups: int, channels: int, spatial: Sequence[int], order: Sequence[int]
) -> ir.Value:
    """Return a map with its axes (batch, groups, channels, *space) in another order."""
    return g.transpose(g.reshape(x, [batch, groups, channels, *spatial]), order)


def window_columns(g: Builder, x: ir.Value, batch: Any, channels: int, w: Windows) -> ir.Value:
    """Return (channels · taps, positions · batch) of a map (batch, channels, *fine).

    Rows of the map, a position's values of all images, are copied as blocks; zeros that surround it are one more row.
    """
    if w.copy_the_map:
        return g.reshape(batch_last(g, x, batch, channels, w.fine), [channels, -1])
    rows = g.reshape(positions_first(g, x, batch, channels, w.fine), [math.prod(w.fine), batch, channels])
    taps = _gather_rows(g, rows, w.sources().T, math.prod(w.fine))
    return g.reshape(g.transpose(g.reshape(taps, [-1, channels]), [1, 0]), [channels * w.taps, -1])


def fold_windows(g: Builder, product: ir.Value, batch: Any, channels: int, w: Windows) -> ir.Value:
    """Sum windows where they overlap: (positions · batch, channels · taps) → (batch, channels, *fine)."""
    rows = product
    if not w.copy_the_map:
        rows = g.reshape(product, [math.prod(w.coarse), batch, channels, w.taps])
        rows = g.reshape(g.transpose(rows, [0, 3, 1, 2]), [math.prod(w.coarse) * w.taps, batch, channels])
        rows = _gather_rows(g, rows, w.sinks(), math.prod(w.coarse) * w.taps)
        rows = g.op("ReduceSum", rows, g.constant([1]), keepdims=0)
    rows = g.reshape(rows, [math.prod(w.fine), batch, channels])
    return g.reshape(g.transpose(rows, [1, 2, 0]), [batch, channels, *w.fine])


def _gather_rows(g: Builder, rows: ir.Value, places: torch.Tensor, count: int) -> ir.Value:
    """Gather from `count` rows of shape (batch, channels); place `count` is a row of zeros."""
    if bool((places == count).any()):
        rows = pad(g, rows, [0, 0, 0, 1, 0, 0])
    return g.op("Gather", rows, g.tensor_constant(places.to(torch.int32)), axis=0)


def positions_first(g: Builder, x: ir.Value, batch: Any, channels: int, space: Sequence[int]) -> ir.Value:
    """Return a map (batch, channels, *space) as (positions · batch, channels)."""
    flat = g.reshape(x, [batch, channels, math.prod(space)])
    return g.reshape(g.transpose(flat, [2, 0, 1]), [-1, channels])


def batch_last(g: Builder, x: ir.Value, batch: Any, channels: int, space: Sequence[int]) -> ir.Value:
    """Return a map (batch, channels, *space) as (channels, positions, batch)."""
    sizes = [channels, math.prod(space), batch]
    if g.static(batch) == 1:
        return g.reshape(x, sizes)
    return g.reshape(g.transpose(g.reshape(x, [batch, channels * math.prod(space)]), [1, 0]), sizes)


def _padded(g: Builder, x: ir.Value, w: Windows, behind_space: int) -> ir.Value:
    """Return the map that the windows cover; two axes precede the spatial ones."""
    tail = [0] * behind_space
    behind = [p - f - b for p, f, b in zip(w.padded(), w.fine, w.padding, strict=True)]
    return pad(g, x, [0, 0, *w.padding, *tail, 0, 0, *behind, *tail])


def pad(g: Builder, x: ir.Value, pads: Sequence[int]) -> ir.Value:
    """Pad with zeros, or crop where a number is negative; the fronts of all axes come first."""
    return g.op("Pad", x, g.constant(list(pads))) if any(pads) else x
