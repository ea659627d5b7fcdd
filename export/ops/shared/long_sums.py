"""Sums and means over long axes in stages of short ones, which bounds their rounding error.

ONNX Runtime's CPU kernels add in order: along the last axis in the lanes of a vector, along any other axis row after
row. The error of n terms added in order grows as √n (and as n where they are alike), that of PyTorch's pairwise sums as
log n. A long axis is therefore seen as several short ones, by a reshape that moves nothing, and reduced one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from export.graph.builder import Builder

__all__ = ["element_count", "expected_size", "mean_of", "reduced", "sum_of"]

MAX_ELEMENTS_IN_ONE_SUM = 4_096
"""Elements up to which a sum over several axes is one operator."""

MAX_ROW_TERMS, ROW_STAGE = 2_048, 128
"""Terms up to which a sum over the last axis is one operator, and the largest number in a stage of a longer one."""

MAX_COLUMN_TERMS, COLUMN_STAGE = 32, 32
"""The same of a sum over an axis that others follow."""

MIN_STAGE = 4
"""The smallest divisor of an axis that is worth a stage; with none, the axis is padded."""

MAX_UNPADDED_TERMS = 256
"""Terms up to which an axis that would have to be padded is left whole, as every one with a dynamic size would be."""

ASSUMED_DYNAMIC_SIZE = 128
"""The least size assumed of a dynamic axis beside others: two exceed the limit, one and a few classes do not."""


def reduced(g: Builder, kind: str, value: ir.Value, axes: Sequence[int], keepdim: bool) -> ir.Value:
    """Reduce over axes in one operator; none leave the value as it is."""
    if not axes:
        return value
    return g.op(kind, value, g.constant(list(axes)), keepdims=int(keepdim))


def sum_of(g: Builder, value: ir.Value, shape: Sequence[Any], axes: Sequence[int], keepdim: bool) -> ir.Value:
    """Return the sum over axes.

    Args:
        g: the graph under construction.
        value: what is summed.
        shape: its recorded shape: numbers and symbolic sizes.
        axes: the axes, counted from the front, in ascending order.
        keepdim: whether they stay with size 1.
    """
    return _reduced_in_stages(g, "ReduceSum", value, shape, axes, keepdim)


def mean_of(g: Builder, value: ir.Value, shape: Sequence[Any], axes: Sequence[int], keepdim: bool) -> ir.Value:
    """Return the mean over axes; the arguments are those of `sum_of`."""
    if any(step.padded for step in _steps(g, shape, axes)):
        total = sum_of(g, value, shape, axes, keepdim)
        return g.op("Div", total, element_count(g, value, shape, axes))
    return _reduced_in_stages(g, "ReduceMean", value, shape, axes, keepdim)


def element_count(g: Builder, value: ir.Value, shape: Sequence[Any], axes: Sequence[int]) -> ir.Value:
    """Return how many elements lie along axes, in the value's dtype: a number, or from the run-time shape."""
    dtype = g.dtypes[value]
    sizes = [g.static(shape[axis]) for axis in axes]
    if None not in sizes:
        return g.constant(float(math.prod(size for size in sizes if size is not None)), dtype)
    count = g.op("ReduceProd", g.op("Gather", g.op("Shape", value, dtype=torch.int64), g.constant(list(axes))))
    return g.cast(g.op("Reshape", count, g.constant([], torch.int64)), dtype)


@dataclass(frozen=True)
class _Step:
    """One reduction: of several axes at once, or of one axis.

    Attributes:
        axes: the axes, in a shape that lacks those which were reduced before.
        shape: that shape.
        stages: the sizes of the axes that a long axis is seen as, without the first; empty if it is left whole.
        padded: whether zeros are appended, so that the axis can be seen as these.
    """

    axes: tuple[int, ...]
    shape: tuple[Any, ...]
    stages: tuple[int, ...] = ()
    padded: bool = False


def _steps(g: Builder, shape: Sequence[Any], axes: Sequence[int]) -> list[_Step]:
    """Plan a reduction: all axes at once if they hold few elements, else axis by axis, the last one first."""
    assumed = ASSUMED_DYNAMIC_SIZE if len(axes) > 1 else 0
    count = math.prod(expected_size(g, shape[axis], assumed) for axis in axes)
    if not axes or (len(axes) > 1 and count <= MAX_ELEMENTS_IN_ONE_SUM):
        return [_Step(tuple(axes), tuple(shape))]
    left, found = list(shape), []
    for axis in reversed(axes):
        is_row = all(g.static(size) == 1 for size in left[axis + 1 :])
        size = left[axis]
        stages, padded = _stages(expected_size(g, size), g.static(size) is not None, is_row)
        found.append(_Step((axis,), tuple(left), stages, padded))
        del left[axis]
    return found


def _stages(size: int, is_static: bool, is_row: bool) -> tuple[tuple[int, ...], bool]:
    """Return the sizes of the short axes that a long one is seen as, without the first, and whether it is padded."""
    limit, longest = (MAX_ROW_TERMS, ROW_STAGE) if is_row else (MAX_COLUMN_TERMS, COLUMN_STAGE)
    if size <= limit:
        return (), False
    rest = size
    exact: list[int] = []
    while is_static and rest > limit:
        best = _stage_size(rest, longest)
        divisors = (d for d in range(MIN_STAGE, longest + 1) if rest % d == 0)
        divisor = min(divisors, key=lambda d: abs(math.log(d / best)), default=None)
        if divisor is None:
            break
        exact.insert(0, divisor)
        rest //= divisor
    if is_static and rest <= limit:
        return tuple(exact), False
    if size <= MAX_UNPADDED_TERMS:
        return (), False
    stage = _stage_size(size, longest)
    return (stage,) * (math.ceil(math.log(size) / math.log(stage) - 1e-9) - 1), True


def _stage_size(size: int, longest: int) -> int:
    """Return the size of equal stages, as few as `longest` allows, whose product is at least `size`."""
    count = math.ceil(math.log(size) / math.log(longest) - 1e-9)
    return math.ceil(size ** (1 / count) - 1e-9)


def _reduced_in_stages(
    g: Builder, kind: str, value: ir.Value, shape: Sequence[Any], axes: Sequence[int], keepdim: bool
) -> ir.Value:
    steps = _steps(g, shape, axes)
    if len(steps) == 1:
        return _reduced_by(g, kind, value, steps[0], keepdim)
    for step in steps:
        value = _reduced_by(g, kind, value, step, False)
    return g.unsqueeze(value, *axes) if keepdim else value


def _reduced_by(g: Builder, kind: str, value: ir.Value, step: _Step, keepdim: bool) -> ir.Value:
    if not step.stages:
        return reduced(g, kind, value, step.axes, keepdim)
    (axis,), rank = step.axes, len(step.shape)
    block, size = math.prod(step.stages), g.static(step.shape[axis])
    first: Any = -(-size // block) if size is not None else None
    if step.padded and size is not None:
        value = g.op("Pad", value, g.constant([0] * (rank + axis) + [first * block - size] + [0] * (rank - axis - 1)))
    elif step.padded:
        here, length = g.dim(value, axis), g.constant([block])
        blocks = g.op("Div", g.op("Add", here, g.constant([block - 1])), length)
        first = g.op("Max", blocks, g.constant([1]))  # so that an empty axis sums to 0
        zeros = [g.constant([0] * (rank + axis)), *[g.constant([0] * n) for n in (rank - axis - 1,) if n]]
        missing = g.op("Sub", g.op("Mul", first, length), here)
        value = g.op("Pad", value, g.op("Concat", zeros[0], missing, *zeros[1:], axis=0))
    known = [g.static(n) for n in step.shape]
    around = [g.dim(value, i) if n is None else n for i, n in enumerate(known)]
    target = [*around[:axis], first, *step.stages, *around[axis + 1 :]]
    is_fixed = all(isinstance(n, int) for n in target)
    parts = [n if isinstance(n, ir.Value) else g.constant([n]) for n in target]
    sizes = g.constant(target) if is_fixed else g.op("Concat", *parts, axis=0)
    value = g.op("Reshape", value, sizes, allowzero=None if is_fixed and 0 not in target else 1)
    for place in range(axis + len(step.stages), axis, -1):
        value = reduced(g, kind, value, [place], False)
    return reduced(g, kind, value, [axis], keepdim)


def expected_size(g: Builder, size: Any, at_least: int = 0) -> int:
    """Return a size as a number; of a dynamic one the example's."""
    known = g.static(size)
    if known is not None:
        return known
    hint = getattr(getattr(size, "node", None), "hint", None)
    return max(int(hint) if hint is not None else 0, at_least)
