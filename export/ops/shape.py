"""Views, permutations, joins, slices, diagonals and windows of an axis."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import Node

from export.graph.builder import Builder, Lowering, node_dtype
from export.ops.shared.kernels import Kernel, mapped_kernel, mapped_size, pytorch_rules, with_mapped_axis

__all__ = ["BATCHING", "DECOMPOSITIONS", "LOWERINGS"]

aten: Any = torch.ops.aten

_END = sys.maxsize


def view(g: Builder, node: Node, x: Any, size: Sequence[Any], *_: Any, **__: Any) -> ir.Value:
    """Reshape; a -1 among the recorded sizes stays a -1."""
    value = g.tensor(x)
    if list(size).count(-1) == 1 and all(g.static(s) is not None for s in size) and 0 not in size:
        return g.op("Reshape", value, g.constant([g.static(s) for s in size]))
    if g.shape_of(x) and [*map(str, g.shape_of(x))] == [*map(str, node.meta["val"].shape)]:
        return value
    if (folded := _without_kept(g, node, x, value)) is not None:
        return folded
    known = [node.meta["val"].shape[i] if s == -1 else s for i, s in enumerate(size)]
    if -1 in size and sum(g.static(s) is None for s in known) > 1:
        # No node gives the size of the axis to infer. PyTorch infers none beside an axis of size 0, so that the zeros
        # of ONNX's Reshape, which copy an input's axis, do not occur.
        return g.op("Reshape", value, g.ints([s if s == -1 else k for s, k in zip(size, known, strict=True)]))
    return g.reshape(value, known)


def _without_kept(g: Builder, node: Node, x: Node, value: ir.Value) -> ir.Value | None:
    """Fold a view that drops a reduction's kept axes into the reduction; None for other views."""
    source = value.producer()
    if source is None or source.op_type != "ReduceSum" or len(x.users) > 1 or not source.attributes["keepdims"].value:
        return None
    summed, axes = source.inputs
    held = axes.const_value if axes is not None else None
    if held is None:
        return None
    dropped = {int(axis) for axis in held.numpy()}
    left = [size for axis, size in enumerate(g.shape_of(x)) if axis not in dropped]
    if [*map(str, left)] != [*map(str, node.meta["val"].shape)]:
        return None
    return g.op("ReduceSum", summed, axes, keepdims=0)


def permute(g: Builder, node: Node, x: Any, order: Sequence[int]) -> ir.Value:
    """Permute axes."""
    rank = len(g.shape_of(x))
    return g.transpose(g.tensor(x), [d % rank for d in order])


def transpose(g: Builder, node: Node, x: Any, a: int, b: int) -> ir.Value:
    """Swap two axes."""
    order = list(range(len(g.shape_of(x))))
    if order:
        order[a], order[b] = order[b], order[a]
    return g.transpose(g.tensor(x), order)


def t(g: Builder, node: Node, x: Any) -> ir.Value:
    """Transpose a matrix; a vector stays."""
    return transpose(g, node, x, 0, 1) if len(g.shape_of(x)) == 2 else g.tensor(x)


def unsqueeze(g: Builder, node: Node, x: Any, dim: int) -> ir.Value:
    """Insert an axis."""
    return g.unsqueeze(g.tensor(x), dim % (len(g.shape_of(x)) + 1))


def squeeze(g: Builder, node: Node, x: Any, dim: Any = None) -> ir.Value:
    """Drop the axes of size 1."""
    shape = g.shape_of(x)
    dims = range(len(shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    axes = [d % len(shape) for d in dims if shape and g.static(shape[d]) == 1]
    if any(g.static(shape[d]) is None for d in dims if shape):
        raise g.unsupported("it drops a dynamic axis where its size is 1; name the axes to drop, x.squeeze(-1)")
    return g.op("Squeeze", g.tensor(x), g.constant(axes)) if axes else g.tensor(x)


def expand(g: Builder, node: Node, x: Any, size: Sequence[Any], *_: Any, **__: Any) -> ir.Value:
    """Broadcast; sizes that stay are written as 1, so that they need not be computed."""
    shape = g.shape_of(x)
    lead = len(size) - len(shape)
    target = []
    for i, wanted in enumerate(size):
        own = shape[i - lead] if i >= lead else None
        kept = own is not None and (wanted == -1 or g.same_size(own, wanted))
        target.append(1 if kept else wanted)
    if all(g.static(s) == 1 for s in target) and not lead:
        return g.tensor(x)
    return g.op("Expand", g.tensor(x), g.ints(target))


def cat(g: Builder, node: Node, tensors: Sequence[Any], dim: int = 0) -> ir.Value:
    """Concatenate; empty vectors beside tensors of higher rank are skipped, as in PyTorch."""
    rank = len(node.meta["val"].shape)
    dtype = node_dtype(node)
    parts = [
        g.tensor(x, dtype)
        for x in tensors
        if len(g.shape_of(x)) == rank and not (rank == 1 and g.static(g.shape_of(x)[0]) == 0)
    ]
    if not parts:
        return g.tensor(tensors[0], dtype)
    return parts[0] if len(parts) == 1 else g.op("Concat", *parts, axis=dim)


def stack(g: Builder, node: Node, tensors: Sequence[Any], dim: int = 0) -> ir.Value:
    """Concatenate on a new axis."""
    rank = len(node.meta["val"].shape)
    dtype = node_dtype(node)
    return g.op("Concat", *(g.unsqueeze(g.tensor(x, dtype), dim % rank) for x in tensors), axis=dim % rank)


def slice_axis(
    g: Builder, node: Node, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> ir.Value:
    """Take a range of an axis; ends beyond the axis are cut, as in PyTorch."""
    begin = 0 if start is None else start
    stop = _END if end is None else end
    if g.static(begin) == 0 and (g.static(stop) or 0) >= _END and step == 1:
        return g.tensor(x)
    if not isinstance(stop, Node) and stop < _END and step == 1 and g.static(begin) == 0:
        whole = g.static(g.shape_of(x)[dim])
        if whole is not None and stop >= whole:
            return g.tensor(x)
    return g.op("Slice", g.tensor(x), g.size(begin), g.size(stop), g.constant([dim]), g.constant([step]))


def select(g: Builder, node: Node, x: Any, dim: int, index: Any) -> ir.Value:
    """Take one position of an axis, which is dropped."""
    fixed = g.static(index)
    where = g.constant(fixed) if fixed is not None else g.op("Squeeze", g.size(index), g.constant([0]))
    return g.op("Gather", g.tensor(x), where, axis=dim)


def split(g: Builder, node: Node, x: Any, sizes: Any, dim: int = 0) -> tuple[ir.Value, ...]:
    """Cut an axis into pieces of the given size or sizes."""
    count = len(node.meta["val"])
    whole = g.shape_of(x)[dim]
    if isinstance(sizes, (list, tuple)):
        lengths = g.ints(list(sizes))
    else:
        fixed, each = g.static(whole), g.static(sizes)
        if fixed is None or each is None:
            return _pieces(g, g.tensor(x), g.size(sizes), count, dim)
        lengths = g.constant([min(each, fixed - i * each) for i in range(count)])
    if count == 1:
        return (g.tensor(x),)
    return g.ops("Split", g.tensor(x), lengths, count=count, axis=dim)


def _pieces(g: Builder, value: ir.Value, each: ir.Value, count: int, dim: int) -> tuple[ir.Value, ...]:
    """Cut an axis whose size is not known into pieces of one size, the last of which may be shorter."""
    pieces, start, axis = [], g.constant([0]), g.constant([dim])
    for _ in range(count):
        end = g.op("Add", start, each)
        pieces.append(g.op("Slice", value, start, end, axis))
        start = end
    return tuple(pieces)


def unbind(g: Builder, node: Node, x: Any, dim: int = 0) -> tuple[ir.Value, ...]:
    """Take every position of an axis."""
    return tuple(g.op("Gather", g.tensor(x), g.constant(i), axis=dim) for i in range(len(node.meta["val"])))


def flip(g: Builder, node: Node, x: Any, dims: Sequence[int]) -> ir.Value:
    """Reverse axes."""
    if not dims:
        return g.tensor(x)
    count = len(dims)
    ends = g.constant([-_END] * count)
    return g.op("Slice", g.tensor(x), g.constant([-1] * count), ends, g.constant(list(dims)), g.constant([-1] * count))


def repeat(g: Builder, node: Node, x: Any, repeats: Sequence[Any]) -> ir.Value:
    """Tile."""
    lead = len(repeats) - len(g.shape_of(x))
    value = g.unsqueeze(g.tensor(x), *range(lead))
    return g.op("Tile", value, g.ints(list(repeats)))


def roll(g: Builder, node: Node, x: Any, shifts: Sequence[Any], dims: Sequence[int] = ()) -> ir.Value:
    """Shift positions of axes cyclically."""
    value = g.tensor(x)
    if not dims:
        sizes = [g.static(size) for size in g.shape_of(x)]
        count = math.prod(size for size in sizes if size is not None) if None not in sizes else None
        flat = g.op("Reshape", value, g.constant([-1]))
        return g.op("Reshape", _rolled(g, flat, shifts[0], 0, count), g.runtime_shape(x))
    for shift, dim in zip(shifts, dims, strict=True):
        value = _rolled(g, value, shift, dim, g.static(g.shape_of(x)[dim]))
    return value


def _rolled(g: Builder, value: ir.Value, shift: Any, dim: int, size: int | None) -> ir.Value:
    """Split at the shift, modulo the axis' size, and exchange the parts."""
    fixed = g.static(shift)
    if fixed == 0 or size in (0, 1):
        return value
    if fixed is not None and size is not None:
        cut = g.constant([-fixed % size])
    else:
        least = g.op("Max", g.dim(value, dim) if size is None else g.constant([size]), g.constant([1]))
        cut = g.op("Mod", g.op("Neg", g.size(shift)), least)
    axis, one = g.constant([dim]), g.constant([1])
    tail = g.op("Slice", value, cut, g.constant([_END]), axis, one)
    return g.op("Concat", tail, g.op("Slice", value, g.constant([0]), cut, axis, one), axis=dim)


def triangle(upper: int) -> Lowering:
    """Lower `triu` or `tril` of the last two axes."""

    def rule(g: Builder, node: Node, x: Any, diagonal: int = 0) -> ir.Value:
        value = g.tensor(x)
        dtype = g.dtypes[value]
        inner = g.cast(value, torch.int32) if dtype == torch.bool else value
        return g.cast(g.op("Trilu", inner, g.constant(diagonal), upper=upper), dtype)

    return rule


def _cat_batched(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Compute `aten.cat` under `vmap`; its tensors come in a list, which `mapped_kernel` does not unwrap."""
    rank = max(x.dim() for x in tensors)

    def rule(mapped: Sequence[bool], *tensors: Tensor) -> Tensor:
        size = mapped_size(mapped, tensors)
        mapped_tensors = [with_mapped_axis(x, known, size) for x, known in zip(tensors, mapped, strict=True)]
        result: Tensor = aten.cat.default(mapped_tensors, dim % rank + 1)
        return result

    def whole(*tensors: Tensor) -> Tensor:
        result: Tensor = aten.cat.default(list(tensors), dim)
        return result

    result: Tensor = mapped_kernel(whole, rule)(*tensors)
    return result


def _diagonal(x: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> torch.Tensor:
    """Take a diagonal by indexing; PyTorch's rule uses strides."""
    a, b = x.shape[dim1], x.shape[dim2]
    rows = torch.arange(max(min(a, b - offset) if offset >= 0 else min(a + offset, b), 0), device=x.device)
    moved = x.movedim((dim1, dim2), (-2, -1))
    return moved[..., rows + max(-offset, 0), rows + max(offset, 0)]


def _diagonal_scatter(
    x: torch.Tensor, source: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> torch.Tensor:
    """Replace a diagonal by a mask."""
    moved = x.movedim((dim1, dim2), (-2, -1))
    rows = torch.arange(moved.shape[-2], device=x.device)
    columns = torch.arange(moved.shape[-1], device=x.device)
    mask = columns == (rows + offset).unsqueeze(1)
    position = (rows - max(-offset, 0)).clamp(0, source.shape[-1] - 1)
    replaced = torch.where(mask, source[..., position].unsqueeze(-1), moved)
    return replaced.movedim((-2, -1), (dim1, dim2))


def _unfold(x: torch.Tensor, dimension: int, size: int, step: int) -> torch.Tensor:
    """Take windows of an axis by indexing; PyTorch's rule uses strides."""
    if not x.dim():
        return x.unsqueeze(0)
    count = (x.shape[dimension] - size) // step + 1
    starts = torch.arange(count, device=x.device) * step
    windows = starts.unsqueeze(1) + torch.arange(size, device=x.device)
    axis = dimension % x.dim()
    picked = x.movedim(axis, -1)[..., windows]
    return picked.movedim(-2, axis)


def _placed(op: Any, axes: Sequence[int]) -> Kernel:
    """Make the kernel of `vmap` of a view's gradient; its arguments are (gradient, sizes, …).

    Args:
        op: the operator.
        axes: the positions of the arguments that number an axis.
    """

    def rule(mapped: Sequence[bool], grad: Tensor, sizes: Sequence[Any], *settings: Any) -> Tensor:
        given = [grad, [grad.shape[0], *sizes], *settings]
        for i in axes:
            given[i] = given[i] % len(sizes) + 1
        result: Tensor = op(*given)
        return result

    return mapped_kernel(op, rule)


LOWERINGS: dict[Any, Lowering] = {
    aten.view.default: view, aten._unsafe_view.default: view, aten.reshape.default: view, aten.view_copy.default: view,
    aten.permute.default: permute, aten.transpose.int: transpose, aten.t.default: t,
    aten.unsqueeze.default: unsqueeze, aten.squeeze.default: squeeze, aten.squeeze.dim: squeeze,
    aten.squeeze.dims: squeeze, aten.expand.default: expand, aten.cat.default: cat, aten.stack.default: stack,
    aten.slice.Tensor: slice_axis, aten.select.int: select, aten.split.Tensor: split,
    aten.split_with_sizes.default: split, aten.unbind.int: unbind, aten.flip.default: flip,
    aten.repeat.default: repeat, aten.roll.default: roll,
    aten.triu.default: triangle(1), aten.tril.default: triangle(0),
}  # fmt: skip

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.diagonal.default: _diagonal,
    aten.diagonal_scatter.default: _diagonal_scatter,
    aten.unfold.default: _unfold,
    **pytorch_rules(aten.slice_scatter.default),
}

BATCHING: dict[Any, Callable[..., Any]] = {
    **pytorch_rules(aten.slice_scatter.default, aten.select_scatter.default),
    aten.cat.default: _cat_batched,
    aten.slice_backward.default: _placed(aten.slice_backward.default, [2]),
    aten.select_backward.default: _placed(aten.select_backward.default, [2]),
}
