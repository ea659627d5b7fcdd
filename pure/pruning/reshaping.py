"""Rules of ATen operations that only move values: views, permutations, slices, paddings.

The functions are named after the operations. Like all rules (see `pure.pruning.rules`) they take the registry, the
shape of the result and the operation's arguments, and return the value of the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pure.block import Shape
from pure.pruning.labels import Labels, Registry, Value, fixed, fixed_value

__all__ = [
    "cat",
    "constant_pad_nd",
    "expand",
    "flip",
    "permute",
    "roll",
    "select",
    "slice_axis",
    "split",
    "stack",
    "take",
    "transpose",
    "transpose_matrix",
    "unbind",
    "view",
]


def view(registry: Registry, shape: Shape, value: Value, *rest: Any, **kwargs: Any) -> Value:
    """Return the labels of `value` seen in another shape.

    A channel axis may be merged with axes that cannot be cut, as flattening (channels, height, width) does, and
    separated from them again. Channel axes that are merged with each other, or split, are pinned.
    """
    before = list(value.axes)
    after = list(shape)
    if math.prod(map(len, before)) == 0:
        return fixed_value(shape)
    axes: list[Labels] = []
    while before or after:
        taken, made = [before.pop(0)] if before else [], [after.pop(0)] if after else []
        have, want = math.prod(map(len, taken)), math.prod(made)
        while have != want:
            if have < want:
                taken.append(before.pop(0))
                have *= len(taken[-1])
            else:
                made.append(after.pop(0))
                want *= made[-1]
        axes.extend(_regrouped(registry, taken, made))
    return Value(tuple(axes), value.leaf)


def _regrouped(registry: Registry, taken: list[Labels], made: list[int]) -> list[Labels]:
    """Return the labels of axes of the sizes `made`, formed from the axes `taken` of as many values."""
    taken = [labels for labels in taken if len(labels) > 1]
    sizes = [size for size in made if size > 1]
    if [len(labels) for labels in taken] == sizes:
        kept = iter(taken)
        return [next(kept) if size > 1 else fixed(size) for size in made]
    movable = [i for i, labels in enumerate(taken) if registry.roots(labels).any()]
    if not movable:
        return [fixed(size) for size in made]
    if len(movable) > 1:
        for labels in taken:
            registry.pin(labels)
        return [fixed(size) for size in made]
    shape = [len(labels) for labels in taken]
    axis = movable[0]
    flat = taken[axis].reshape([-1 if i == axis else 1 for i in range(len(shape))]).expand(shape).reshape(sizes)
    for place in range(len(sizes)):
        labels = flat.movedim(place, 0).reshape(sizes[place], -1)
        if (labels == labels[:, :1]).all():
            return _placed(made, place, labels[:, 0])
    registry.pin(taken[axis])
    return [fixed(size) for size in made]


def _placed(made: list[int], place: int, labels: Labels) -> list[Labels]:
    """Return fixed axes except number `place` of those of more than one position, which gets `labels`."""
    long = [i for i, size in enumerate(made) if size > 1][place]
    return [labels if i == long else fixed(size) for i, size in enumerate(made)]


def permute(registry: Registry, shape: Shape, value: Value, order: Sequence[int]) -> Value:
    """Return the axes in another order."""
    return Value(tuple(value.axes[axis] for axis in order), value.leaf)


def transpose(registry: Registry, shape: Shape, value: Value, first: int, second: int) -> Value:
    """Return a value with two axes exchanged."""
    order = list(range(len(value.axes)))
    order[first], order[second] = order[second], order[first]
    return permute(registry, shape, value, order)


def transpose_matrix(registry: Registry, shape: Shape, value: Value) -> Value:
    """Return a value of at most two axes with its axes in reverse order."""
    return permute(registry, shape, value, range(len(value.axes))[::-1])


def expand(registry: Registry, shape: Shape, value: Value, *rest: Any, **kwargs: Any) -> Value:
    """Return a value repeated along its axes of size 1, and along new ones in front."""
    new = len(shape) - len(value.axes)
    front = tuple(fixed(size) for size in shape[:new])
    back = zip(value.axes, shape[new:], strict=True)
    return Value((*front, *(axis if len(axis) == size else fixed(size) for axis, size in back)), value.leaf)


def take(value: Value, axis: int, positions: Labels | slice) -> Value:
    """Return some positions of an axis."""
    axis %= len(value.axes)
    kept = value.axes[axis][positions]
    return Value((*value.axes[:axis], kept, *value.axes[axis + 1 :]), value.leaf)


def slice_axis(
    registry: Registry,
    shape: Shape,
    value: Value,
    axis: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    """Return a slice of an axis."""
    return take(value, axis, slice(start, end, step))


def split(
    registry: Registry, shape: Shape, value: Value, sizes: int | Sequence[int], axis: int = 0
) -> tuple[Value, ...]:
    """Return the parts of an axis, of one size (the last may be smaller) or of the given sizes."""
    whole = value.shape[axis]
    parts = [min(sizes, whole - start) for start in range(0, whole, sizes)] if isinstance(sizes, int) else list(sizes)
    starts = [sum(parts[:i]) for i in range(len(parts))]
    return tuple(take(value, axis, slice(start, start + size)) for start, size in zip(starts, parts, strict=True))


def flip(registry: Registry, shape: Shape, value: Value, axes: Sequence[int]) -> Value:
    """Return a value with the positions of some axes in reverse order."""
    for axis in axes:
        value = take(value, axis, torch.arange(value.shape[axis] - 1, -1, -1))
    return value


def roll(registry: Registry, shape: Shape, value: Value, shifts: Sequence[int], axes: Sequence[int] = ()) -> Value:
    """Pin the axes that are rolled, all of them if none is named."""
    return registry.pin_axes(value, axes or range(len(value.axes)))


def select(registry: Registry, shape: Shape, value: Value, axis: int, index: int) -> Value:
    """Return a value without an axis; it is pinned, as its index may count from the end."""
    axis %= len(value.axes)
    registry.pin(value.axes[axis])
    return Value((*value.axes[:axis], *value.axes[axis + 1 :]), value.leaf)


def unbind(registry: Registry, shape: Shape, value: Value, axis: int = 0) -> tuple[Value, ...]:
    """Return the values that selecting each position of an axis gives."""
    return (select(registry, shape, value, axis, 0),) * value.shape[axis]


def stack(registry: Registry, shape: Shape, values: Sequence[Value], axis: int = 0) -> Value:
    """Return values along a new axis, which cannot be cut; their axes are the same channels."""
    axis %= len(shape)
    joined = registry.broadcast(values)
    return Value((*joined[:axis], fixed(shape[axis]), *joined[axis:]))


def cat(registry: Registry, shape: Shape, values: Sequence[Value], axis: int = 0) -> Value:
    """Return values concatenated along an axis; their other axes are the same channels."""
    values = [value for value in values if value.shape != (0,)]
    axis %= len(values[0].axes)
    axes = list(values[0].axes)
    for place in range(len(axes)):
        if place == axis:
            axes[place] = torch.cat([value.axes[axis] for value in values])
        else:
            for value in values[1:]:
                registry.join(axes[place], value.axes[place])
    return Value(tuple(axes))


def constant_pad_nd(
    registry: Registry, shape: Shape, value: Value, amounts: Sequence[int], constant: float = 0.0
) -> Value:
    """Return a padded (or, with negative amounts, cropped) value.

    The last axis comes first in `amounts`. A channel of zeros may be cut with what it is added to; padding with another
    constant pins nothing but itself.
    """
    axes = list(value.axes)
    for step in range(len(amounts) // 2):
        place = len(axes) - 1 - step
        labels = axes[place]
        front, back = amounts[2 * step : 2 * step + 2]
        movable = bool(registry.roots(labels).any())
        parts = [labels[max(-front, 0) : len(labels) - max(-back, 0)]]
        for amount, where in ((front, 0), (back, len(parts))):
            if amount > 0:
                zeros = constant == 0 and movable
                fill = torch.cat([registry.fresh(2)[:1] for _ in range(amount)]) if zeros else fixed(amount)
                parts.insert(where, fill)
        axes[place] = torch.cat(parts)
    return Value(tuple(axes), value.leaf)
