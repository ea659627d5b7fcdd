"""How labels pass through operations that only move values: views, permutations, slices, joins, paddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from pure.pruning.labels import Labels, Registry, Value, fixed, fixed_value

__all__ = ["cat", "expand", "pad", "permute", "select", "take", "view"]


def view(registry: Registry, value: Value, shape: Sequence[int]) -> Value:
    """Return the labels of `value` seen in another shape.

    A channel axis may be joined with axes that cannot be cut, as by flattening (channels, height, width), and parted
    from them again. Axes of channels that are joined with each other, or split, are pinned.
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
    """Return the axes `made` out of the axes `taken`, which hold as many values."""
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
    """Return fixed axes but for the one that is number `place` among those of more than one position."""
    long = [i for i, size in enumerate(made) if size > 1][place]
    return [labels if i == long else fixed(size) for i, size in enumerate(made)]


def permute(value: Value, order: Sequence[int]) -> Value:
    """Return the axes in another order."""
    return Value(tuple(value.axes[axis] for axis in order), value.leaf)


def expand(value: Value, shape: Sequence[int]) -> Value:
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


def select(registry: Registry, value: Value, axis: int) -> Value:
    """Return a value without an axis, one position of which was taken; which one it is depends on the axis's size."""
    axis %= len(value.axes)
    registry.pin(value.axes[axis])
    return Value((*value.axes[:axis], *value.axes[axis + 1 :]), value.leaf)


def cat(registry: Registry, values: Sequence[Value], axis: int) -> Value:
    """Return values one behind the other along an axis; their other axes are the same channels."""
    axis %= len(values[0].axes)
    axes = list(values[0].axes)
    for place in range(len(axes)):
        if place == axis:
            axes[place] = torch.cat([value.axes[axis] for value in values])
        else:
            for value in values[1:]:
                registry.join(axes[place], value.axes[place])
    return Value(tuple(axes))


def pad(registry: Registry, value: Value, amounts: Sequence[int], zeros: bool) -> Value:
    """Return a padded (or, by negative amounts, cropped) value; the last axis comes first in `amounts`.

    A channel of zeros may be cut with what it is added to; padding by another constant pins nothing but itself.
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
                fill = torch.cat([registry.fresh(2)[:1] for _ in range(amount)]) if zeros and movable else fixed(amount)
                parts.insert(where, fill)
        axes[place] = torch.cat(parts)
    return Value(tuple(axes), value.leaf)
