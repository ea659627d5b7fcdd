"""The largest value of each window by slices, where there is no MaxPool: on CUDA from opset 22 on."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import onnx_ir as ir
import torch

from export.graph.builder import Builder

__all__ = ["NO_MAX_POOL", "PoolWindows", "maxima", "maxima_with_positions"]

NO_MAX_POOL = 22
"""The opset from which on ONNX Runtime's CUDA provider has no MaxPool in any dtype (`export.devices.cuda_kernels`)."""

_TO_THE_END = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class PoolWindows:
    """Where the windows of a pool lie; one number per spatial axis.

    Attributes:
        kernel: sizes of a window.
        stride: steps between windows.
        gap: steps inside a window.
        before: how far the first window begins before the map.
        behind: how far the last window may end behind it.
    """

    kernel: Sequence[int]
    stride: Sequence[int]
    gap: Sequence[int]
    before: Sequence[int]
    behind: Sequence[int]

    def steps(self, axis: int) -> list[tuple[int, int]]:
        """Return where the slices of an axis begin and end, one for each place in a window."""
        reach = self.gap[axis] * (self.kernel[axis] - 1)
        starts = range(0, reach + 1, self.gap[axis])
        return [(start, start - reach if start < reach else _TO_THE_END) for start in starts]


def maxima(g: Builder, value: ir.Value, windows: PoolWindows) -> ir.Value:
    """Return the largest value of each window of (batch, channels, *spatial), one axis after the other."""
    value = _padded(g, value, windows)
    for axis in range(len(windows.kernel)):
        value = _largest(g, [_slice(g, value, windows, {axis: step}) for step in windows.steps(axis)])
    return value


def maxima_with_positions(
    g: Builder, value: ir.Value, windows: PoolWindows, inner: Sequence[int], outer: Sequence[int]
) -> tuple[ir.Value, ir.Value]:
    """Return the largest values and their positions in the plane, the first of equal ones.

    Args:
        g: the graph.
        value: of shape (batch, channels, *inner).
        windows: where the windows lie.
        inner: spatial sizes of the map.
        outer: number of windows along each axis.
    """
    padded = _padded(g, value, windows)
    rank = len(inner)
    places = list(itertools.product(*(windows.steps(axis) for axis in range(rank))))
    slices = [_slice(g, padded, windows, dict(enumerate(place))) for place in places]
    stacked = g.op("Concat", *(g.unsqueeze(one, rank + 2) for one in slices), axis=rank + 2)
    which = g.op("ArgMax", stacked, dtype=torch.int64, axis=rank + 2, keepdims=0)
    strides = [math.prod(inner[axis + 1 :]) for axis in range(rank)]
    inside = torch.tensor([sum(start * s for (start, _), s in zip(place, strides, strict=True)) for place in places])
    first = torch.zeros((), dtype=torch.int64)
    for axis in range(rank):
        along = torch.arange(outer[axis]) * windows.stride[axis] - windows.before[axis]
        first = first.unsqueeze(-1) + along * strides[axis]
    flat = g.op("Add", g.op("Gather", g.tensor_constant(inside), which, axis=0), g.tensor_constant(first))
    if any((*windows.before, *windows.behind)):  # where all of a window is -∞, that of the padding comes first
        flat = g.op("Min", g.op("Max", flat, g.constant(0)), g.constant(math.prod(inner) - 1))
    return _largest(g, slices), flat


def _padded(g: Builder, value: ir.Value, windows: PoolWindows) -> ir.Value:
    if not any((*windows.before, *windows.behind)):
        return value
    amounts = g.constant([0, 0, *windows.before, 0, 0, *windows.behind])
    return g.op("Pad", value, amounts, g.constant(-math.inf, g.dtypes[value]), mode="constant")


def _slice(g: Builder, value: ir.Value, windows: PoolWindows, taken: dict[int, tuple[int, int]]) -> ir.Value:
    """Return the values at one place of each window, {axis: (begin, end)}."""
    starts, ends = ([step[i] for step in taken.values()] for i in (0, 1))
    axes, steps = [axis + 2 for axis in taken], [windows.stride[axis] for axis in taken]
    return g.op("Slice", value, *(g.constant(part) for part in (starts, ends, axes, steps)))


def _largest(g: Builder, values: Sequence[ir.Value]) -> ir.Value:
    return values[0] if len(values) == 1 else g.op("Max", *values)
