"""Rules of ``vmap`` for convolutions and their derivatives that keep symbolic sizes.

A mapped input alone joins the batch, a mapped weight alone the channels. Where both are mapped, each element gets its
own group; if that number of groups is symbolic, which no operator allows, the product is one of matrices over windows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from export.ops.batching import Rule, Size, fold, mapped_kernel, mapped_size, spread, unfold

aten: Any = torch.ops.aten
Numbers = Sequence[int]


def is_number(size: Size) -> bool:
    """Tell whether the mapped axis has a fixed size, which may be a number of groups."""
    return isinstance(size, int)


def _beside(x: Tensor, axis: int, groups: int) -> Tensor:
    """(mapped, …) → the mapped axis inside ``axis`` (of one element), after the groups: (group, mapped, channel)."""
    shape = x.shape[1:]
    parts = x.reshape(x.shape[0], *shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    return parts.movedim(0, axis + 1).reshape(*shape[:axis], x.shape[0] * shape[axis], *shape[axis + 1 :])


def _apart(x: Tensor, axis: int, groups: int, size: Size) -> Tensor:
    """Undo ``_beside``."""
    shape = x.shape
    each = shape[axis] // size
    parts = x.reshape(*shape[:axis], groups, size, each // groups, *shape[axis + 1 :])
    return parts.movedim(axis + 1, 0).reshape(size, *shape[:axis], each, *shape[axis + 1 :])


def _windows(
    fine: Tensor, coarse: Sequence[Size], kernel: Numbers, stride: Numbers, padding: Numbers, dilation: Numbers
) -> Tensor:
    """The values that each place of the coarse map sees: (n, channels, *fine) → (n, channels, kernel, places)."""
    padded = torch.constant_pad_nd(fine, [amount for p in reversed(padding) for amount in (p, p)])
    seen = []
    for offsets in itertools.product(*map(range, kernel)):
        part = padded
        for axis, (offset, d, s, places) in enumerate(zip(offsets, dilation, stride, coarse, strict=True)):
            first = offset * d
            part = aten.slice.Tensor(part, axis + 2, first, first + (places - 1) * s + 1, s)
        seen.append(part.flatten(2))
    return torch.stack(seen, 2)


def _grouped(windows: Tensor, size: Size, groups: int) -> Tensor:
    """(mapped · n, channels, kernel, places) → (mapped, n, groups, channels / groups · kernel, places)."""
    rows, channels, kernel, places = windows.shape
    return windows.reshape(size, rows // size, groups, channels // groups * kernel, places)


def _convolution(
    mapped: Sequence[bool],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Numbers,
    padding: Numbers,
    dilation: Numbers,
    transposed: bool,
    output_padding: Numbers,
    groups: int,
) -> Tensor:
    """``aten.convolution``."""
    size = mapped_size(mapped[:3], (x, weight, bias))
    by_x, by_weight, by_bias = mapped[:3]
    inside = None if by_weight or by_bias else bias

    def run(x: Tensor, weight: Tensor, groups: Any) -> Tensor:
        settings = (stride, padding, dilation, transposed, output_padding, groups)
        result: Tensor = aten.convolution.default(x, weight, inside, *settings)
        return result

    if not by_weight:
        result = unfold(run(fold(spread(x, by_x, size)), weight, groups), size, x.shape[by_x])
    elif not by_x:
        wide = _beside(weight, 1, 1) if transposed else _beside(weight, 0, groups)
        result = _apart(run(x, wide, groups), 1, groups, size)
    elif is_number(size) or transposed:
        result = _apart(run(_beside(x, 1, 1), fold(weight), groups * size), 1, 1, size)
    else:
        result = _by_windows(x, weight, stride, padding, dilation, groups)
    if bias is not None and inside is None:
        place = [1] * len(stride)
        result = result + (bias.reshape(size, 1, -1, *place) if by_bias else bias.reshape(-1, *place))
    return result


def _by_windows(x: Tensor, weight: Tensor, stride: Numbers, padding: Numbers, dilation: Numbers, groups: int) -> Tensor:
    """A convolution with a weight for each element, as a product of matrices."""
    size, n = x.shape[:2]
    out, _, *kernel = weight.shape[1:]
    sizes = zip(x.shape[3:], kernel, stride, padding, dilation, strict=True)
    places = [(length + 2 * p - d * (k - 1) - 1) // s + 1 for length, k, s, p, d in sizes]
    windows = _grouped(_windows(fold(x), places, kernel, stride, padding, dilation), size, groups)
    matrix = weight.reshape(size, 1, groups, out // groups, windows.shape[3])
    return torch.matmul(matrix, windows).reshape(size, n, out, *places)


def _backward(
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
    """``aten.convolution_backward``."""
    size = mapped_size(mapped[:3], (grad, x, weight))
    settings = (stride, padding, dilation, transposed, output_padding)

    def run(which: int, grad: Tensor, x: Tensor, weight: Tensor, groups: Any) -> Tensor:
        mask = [position == which for position in range(3)]
        result: Tensor = aten.convolution_backward.default(grad, x, weight, None, *settings, groups, mask)[which]
        return result

    def by_input() -> Tensor:
        if not mapped[2]:
            flat = fold(spread(grad, mapped[0], size)), fold(spread(x, mapped[1], size))
            return unfold(run(0, *flat, weight, groups), size, x.shape[mapped[1]])
        each = _beside(spread(grad, mapped[0], size), 1, 1), _beside(spread(x, mapped[1], size), 1, 1)
        return _apart(run(0, *each, fold(weight), groups * size), 1, 1, size)

    def by_weight() -> Tensor:
        shape = weight.shape[mapped[2] :]
        if not (mapped[0] or mapped[1]):
            like = weight.new_zeros(()).expand(shape)
            return spread(run(1, grad, x, like, groups), False, size)
        if mapped[0] and mapped[1]:
            if not is_number(size):
                fine, coarse = (grad, x) if transposed else (x, grad)
                return weight_by_windows(fine, coarse, shape, stride, padding, dilation, groups)
            like = weight.new_zeros(()).expand(size * shape[0], *shape[1:])
            return unfold(run(1, _beside(grad, 1, 1), _beside(x, 1, 1), like, groups * size), size, shape[0])
        # The weight's axis 0 counts the coarse side's channels, its axis 1 those of the fine side within a group.
        axis = int(mapped[0] == transposed)
        like = weight.new_zeros(()).expand(*shape[:axis], size * shape[axis], *shape[axis + 1 :])
        wide_grad, wide_x = (_beside(grad, 1, groups), x) if mapped[0] else (grad, _beside(x, 1, groups))
        return _apart(run(1, wide_grad, wide_x, like, groups), axis, groups if axis == 0 else 1, size)

    def by_bias() -> Tensor:
        full = spread(grad, mapped[0], size)
        return full.sum([1, *range(3, full.dim())])

    rules = (by_input, by_weight, by_bias)
    return tuple(rule() if is_wanted else None for rule, is_wanted in zip(rules, wanted, strict=True))


def weight_by_windows(
    fine: Tensor,
    coarse: Tensor,
    shape: Sequence[int],
    stride: Numbers,
    padding: Numbers,
    dilation: Numbers,
    groups: int,
) -> Tensor:
    """The derivative by the weight for each element: products of the coarse side with the windows of the fine one."""
    size, n, channels, *places = coarse.shape
    windows = _grouped(_windows(fold(fine), places, shape[2:], stride, padding, dilation), size, groups)
    rows = coarse.reshape(size, n, groups, channels // groups, windows.shape[4])
    return torch.matmul(rows, windows.transpose(3, 4)).sum(1).reshape(size, *shape)


RULES: dict[Any, Rule] = {
    aten.convolution.default: mapped_kernel(aten.convolution.default, _convolution),
    aten.convolution_backward.default: mapped_kernel(aten.convolution_backward.default, _backward),
}
"""{operator: kernel}."""
