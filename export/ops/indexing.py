"""Reading and writing by position: gather, scatter, index tensors and masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import Node

from export.graph.builder import Builder, Lowering, node_dtype
from export.graph.onnx_types import accumulation_dtype
from export.ops.shared.kernels import Kernel, mapped_kernel, mapped_size, with_mapped_axis

__all__ = ["BATCHING", "COMPOSITES", "DECOMPOSITIONS", "LOWERINGS", "written"]

aten: Any = torch.ops.aten


def gather(g: Builder, node: Node, x: Any, dim: int, index: Any, **_: Any) -> ir.Value:
    """Take elements along an axis, each by its own position."""
    if not g.shape_of(x):
        return g.tensor(x) if not g.shape_of(index) else g.op("Expand", g.tensor(x), g.runtime_shape(index))
    return g.op("GatherElements", g.tensor(x), g.tensor(index), axis=dim)


def written(
    g: Builder, target: ir.Value, places: ir.Value, updates: ir.Value, axis: int, reduction: str | None
) -> ir.Value:
    """Write or reduce along an axis; half types in float32, as ONNX Runtime's CPU kernels do not reduce them."""
    dtype = g.dtypes[target]
    inner = dtype if reduction is None else accumulation_dtype(dtype)
    target, updates = g.cast(target, inner), g.cast(updates, inner)
    return g.cast(g.op("ScatterElements", target, places, updates, axis=axis, reduction=reduction), dtype)


def scatter(reduction: str | None) -> Lowering:
    """Write or add along an axis."""

    def rule(g: Builder, node: Node, x: Any, dim: int, index: Any, source: Any, **_: Any) -> ir.Value:
        if not g.shape_of(x):
            raise g.unsupported("a tensor without axes; use x.reshape(1)")
        value = _source(g, source, index, node_dtype(node))
        return written(g, g.tensor(x), g.tensor(index), value, dim, reduction)

    return rule


def _source(g: Builder, source: Any, index: Any, dtype: torch.dtype) -> ir.Value:
    """Return the source, cut to the index's shape, as PyTorch ignores the rest."""
    value = g.tensor(source, dtype)
    if not isinstance(source, Node):
        return g.op("Expand", value, g.runtime_shape(index))
    if [*map(str, g.shape_of(source))] == [*map(str, g.shape_of(index))]:
        return value
    count = len(g.shape_of(index))
    return g.op("Slice", value, g.constant([0] * count), g.runtime_shape(index), g.constant(list(range(count))))


_REDUCTIONS = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min", "mean": "add"}


def scatter_reduce(
    g: Builder, node: Node, x: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True
) -> ir.Value:
    """Reduce all values of one position; without `include_self` from the reduction's neutral element."""
    dtype = node_dtype(node)
    if not g.shape_of(x):
        raise g.unsupported("a tensor without axes; use x.reshape(1)")
    places, value, start = g.tensor(index), _source(g, source, index, dtype), g.tensor(x)

    def scattered(target: ir.Value, updates: ir.Value, reduction: str | None) -> ir.Value:
        return written(g, target, places, updates, dim, reduction)

    def everywhere(number: float) -> ir.Value:
        return g.op("Expand", g.constant(number, dtype), g.runtime_shape(index))

    if not include_self:
        start = scattered(start, everywhere(_neutral(reduce, dtype)), None)
    total = scattered(start, value, _REDUCTIONS[reduce])
    if reduce != "mean":
        return total
    ones = g.op("Expand", g.constant(1, dtype), g.runtime_shape(x))
    counts = scattered(ones if include_self else scattered(ones, everywhere(0), None), everywhere(1), "add")
    if dtype.is_floating_point:
        return g.op("Div", total, counts)
    return g.op("Div", g.op("Sub", total, g.op("Mod", total, counts)), counts)


def _neutral(reduce: str, dtype: torch.dtype) -> float:
    """Return the reduction's neutral element."""
    if reduce in ("amax", "amin"):
        lowest = -float("inf") if dtype.is_floating_point else torch.iinfo(dtype).min
        highest = float("inf") if dtype.is_floating_point else torch.iinfo(dtype).max
        return lowest if reduce == "amax" else highest
    return 1 if reduce == "prod" else 0


def index_select(g: Builder, node: Node, x: Any, dim: int, index: Any) -> ir.Value:
    """Take positions of an axis; one without axes counts as a row of one, and a number has one place only."""
    if not g.shape_of(x):
        return g.tensor(x)
    places = g.tensor(index) if g.shape_of(index) else g.unsqueeze(g.tensor(index), 0)
    return g.op("Gather", g.tensor(x), places, axis=dim)


def _positions(g: Builder, indices: Sequence[Any]) -> tuple[list[int], list[ir.Value], int]:
    """Return the indexed axes, their index tensors broadcast to one shape, and its rank."""
    axes = [i for i, index in enumerate(indices) if index is not None]
    nodes = [indices[i] for i in axes]
    if any(node.meta["val"].dtype in (torch.bool, torch.uint8) for node in nodes):
        raise g.unsupported("a mask as an index gives a shape that depends on the data; use torch.where")
    values = [g.tensor(node, torch.int64) for node in nodes]
    shapes = [[*map(str, g.shape_of(node))] for node in nodes]
    rank = max(len(shape) for shape in shapes)
    if any(shape != shapes[0] for shape in shapes):
        zero = g.constant(0)
        zeros = [g.op("Mul", value, zero) for value in values]
        values = [_sum(g, [value, *(z for j, z in enumerate(zeros) if j != i)]) for i, value in enumerate(values)]
    return axes, values, rank


def _sum(g: Builder, values: Sequence[ir.Value]) -> ir.Value:
    total = values[0]
    for value in values[1:]:
        total = g.op("Add", total, value)
    return total


def index(g: Builder, node: Node, x: Any, indices: Sequence[Any]) -> ir.Value:
    """Index by tensors: Gather for one, GatherND for several."""
    axes, values, rank = _positions(g, indices)
    value = g.tensor(x)
    if len(axes) == 1:
        return g.op("Gather", value, values[0], axis=axes[0])
    total = len(g.shape_of(x))
    rest = [i for i in range(total) if i not in axes]
    moved = g.transpose(value, [*axes, *rest])
    stacked = g.op("Concat", *(g.unsqueeze(v, rank) for v in values), axis=rank)
    result = g.op("GatherND", moved, stacked)
    adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
    if not adjacent or axes[0] == 0:
        return result
    before = list(range(rank, rank + axes[0]))
    after = list(range(rank + axes[0], rank + len(rest)))
    return g.transpose(result, [*before, *range(rank), *after])


def index_put(
    g: Builder, node: Node, x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False
) -> ir.Value:
    """Write or add at positions given by index tensors."""
    if any(item is not None and item.meta["val"].dtype == torch.bool for item in indices):
        only = [item for item in indices if item is not None]
        if len(only) == 1 and not accumulate and indices[0] is only[0] and not g.shape_of(values):
            missing = len(g.shape_of(x)) - len(g.shape_of(only[0]))
            lead = len(g.shape_of(only[0]))
            mask = g.unsqueeze(g.tensor(only[0]), *range(lead, lead + missing))
            return g.op("Where", mask, g.tensor(values, node_dtype(node)), g.tensor(x), dtype=node_dtype(node))
    axes, positions, rank = _positions(g, indices)
    dtype = node_dtype(node)
    total = len(g.shape_of(x))
    rest = [i for i in range(total) if i not in axes]
    order = [*axes, *rest]
    moved = g.transpose(g.tensor(x), order)
    adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
    value = g.tensor(values, dtype)
    before = axes[0] if adjacent else 0
    if before:
        # The values are laid out like the indexed result: (axes before, positions, axes after).
        missing = rank + len(rest) - len(g.shape_of(values))
        value = g.unsqueeze(value, *range(missing))
        value = g.transpose(
            value, [*range(before, before + rank), *range(before), *range(before + rank, rank + len(rest))]
        )
    shape = g.op("Shape", positions[0], dtype=torch.int64)
    if rest:
        shape = g.op("Concat", shape, g.op("Shape", moved, dtype=torch.int64, start=len(axes), end=None), axis=0)
    updates = g.op("Expand", value, shape)
    if accumulate:
        result = _added(g, moved, positions, rank, updates, len(rest))
    else:
        stacked = g.op("Concat", *(g.unsqueeze(v, rank) for v in positions), axis=rank)
        result = g.op("ScatterND", moved, stacked, updates)
    return g.transpose(result, [order.index(i) for i in range(total)])


def _added(
    g: Builder, target: ir.Value, positions: Sequence[ir.Value], rank: int, updates: ir.Value, trailing: int
) -> ir.Value:
    """Add rows at positions on the leading axes.

    Not by ScatterND, whose threads lose additions to one position in ONNX Runtime 1.31: by ScatterElements along one
    axis, which all leading axes are joined to.
    """

    def shape(value: ir.Value, start: int, end: int | None = None) -> ir.Value:
        return g.op("Shape", value, dtype=torch.int64, start=start, end=end)

    lead = len(positions)
    rest = [shape(target, lead)] if trailing else []
    place, flat = positions[0], target
    if lead > 1:
        for axis, position in enumerate(positions[1:], 1):
            size = g.op("Reshape", g.dim(target, axis), g.constant([], torch.int64))
            place = g.op("Add", g.op("Mul", place, size), g.op("Mod", position, size))
        joined = g.op("ReduceProd", shape(target, 0, lead), keepdims=1)
        flat = g.op("Reshape", target, g.op("Concat", joined, *rest, axis=0), allowzero=1)
    if rank != 1:
        count = g.op("ReduceProd", shape(positions[0], 0), keepdims=1) if rank else g.constant([1])
        place = g.op("Reshape", place, count, allowzero=1)
        updates = g.op("Reshape", updates, g.op("Concat", count, *rest, axis=0), allowzero=1)
    places = g.op("Expand", g.unsqueeze(place, *range(1, trailing + 1)), shape(updates, 0))
    result = written(g, flat, places, updates, 0, "add")
    return g.op("Reshape", result, shape(target, 0), allowzero=1) if lead > 1 else result


def _put(x: torch.Tensor, index: torch.Tensor, source: torch.Tensor, accumulate: bool = False) -> torch.Tensor:
    """Write at positions of the flattened tensor."""
    flat = x.reshape(-1).index_put((index.reshape(-1),), source.reshape(-1), accumulate=accumulate)
    return flat.reshape(x.shape)


def _masked_scatter_backward(grad: torch.Tensor, mask: torch.Tensor, sizes: Sequence[Any]) -> torch.Tensor:
    """Collect the gradient where the mask holds, followed by zeros."""
    chosen = mask.expand(grad.shape).reshape(-1)
    position = torch.where(chosen, chosen.to(torch.int64).cumsum(0) - 1, torch.zeros_like(chosen, dtype=torch.int64))
    values = torch.where(chosen, grad.reshape(-1), torch.zeros_like(grad).reshape(-1))
    count = 1
    for size in sizes:
        count = count * size
    return grad.new_zeros([count]).index_add(0, position, values).reshape(list(sizes))


def _index_select_backward(grad: Tensor, sizes: Sequence[Any], dim: int, index: Tensor) -> Tensor:
    """Return the gradient of `index_select`; PyTorch 2.11's own fails for symbolic sizes."""
    return grad.new_zeros(sizes).index_add(dim, index.reshape(-1), grad)


def _take_along_dim(x: Tensor, index: Tensor, dim: int | None = None) -> Tensor:
    """Take elements along an axis, the other axes broadcast."""
    if dim is None:
        return x.reshape(-1).gather(0, index.reshape(-1))
    axis = dim % x.dim()
    shapes = ([*x.shape[:axis], 1, *x.shape[axis + 1 :]], [*index.shape[:axis], 1, *index.shape[axis + 1 :]])
    both = torch.broadcast_shapes(*shapes)
    wide_x = x.expand(*both[:axis], x.shape[axis], *both[axis + 1 :])
    return wide_x.gather(axis, index.expand(*both[:axis], index.shape[axis], *both[axis + 1 :]))


def _along_axis(op: Any) -> Kernel:
    """Make the kernel of `vmap` of a gather or scatter; its arguments are (x, axis, index, …)."""

    def rule(mapped: Sequence[bool], x: Tensor, dim: int, index: Tensor, *rest: Any, **settings: Any) -> Tensor:
        size = mapped_size(mapped, (x, dim, index, *rest))
        rank = x.dim() - mapped[0]
        dropped = not (index.dim() - mapped[2] if op is aten.gather.default else rank)
        tensors = []
        for arg, known in zip((x, index, *rest), (mapped[0], *mapped[2:]), strict=True):
            wide = with_mapped_axis(arg, known, size) if isinstance(arg, Tensor) else arg
            tensors.append(wide.unsqueeze(1) if isinstance(wide, Tensor) and wide.dim() == 1 else wide)
        result: Tensor = op(tensors[0], dim % max(rank, 1) + 1, *tensors[1:], **settings)
        return result.squeeze(1) if dropped else result

    return mapped_kernel(op, rule)


def _rows(op: Any) -> Kernel:
    """Make the kernel of `vmap` of `index_add` or `index_copy`, where a mapped index has one entry for each element."""

    def rule(mapped: Sequence[bool], x: Tensor, dim: int, index: Tensor, source: Tensor, **settings: Any) -> Tensor:
        size = mapped_size(mapped, (x, dim, index, source))
        scalar = x.dim() == mapped[0]
        x, source = (with_mapped_axis(t, known, size) for t, known in ((x, mapped[0]), (source, mapped[3])))
        x, source = (t.unsqueeze(1) if t.dim() == 1 else t for t in (x, source))
        axis = dim % (x.dim() - 1) + 1
        if mapped[2]:
            shape = [size, *[1] * (x.dim() - 1)]
            shape[axis] = source.shape[axis]
            places = index.reshape(shape).expand(source.shape)
            added = op is aten.index_add.default
            alpha = settings.get("alpha", 1)
            source = source if alpha == 1 else source * alpha
            result = x.scatter_add(axis, places, source) if added else x.scatter(axis, places, source)
        else:
            result = op(x, axis, index, source, **settings)
        return result.squeeze(1) if scalar else result

    return mapped_kernel(op, rule)


def _index_select_batched(mapped: Sequence[bool], x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Compute `aten.index_select` under `vmap`."""
    rank = x.dim() - mapped[0]
    if not rank:
        return with_mapped_axis(x, mapped[0], mapped_size(mapped, (x, dim, index)))
    axis = dim % rank
    if not mapped[2]:
        return x.index_select(axis + 1, index)
    if not mapped[0]:
        picked = x.index_select(axis, index.reshape(-1))
        count = index.shape[1] if index.dim() > 1 else 1
        return picked.reshape(*x.shape[:axis], index.shape[0], count, *x.shape[axis + 1 :]).movedim(axis, 0)
    shape = [index.shape[0], *[1] * rank]
    shape[axis + 1] = index.shape[1] if index.dim() > 1 else 1
    wide = [*x.shape[: axis + 1], shape[axis + 1], *x.shape[axis + 2 :]]
    return x.gather(axis + 1, index.reshape(shape).expand(wide))


LOWERINGS: dict[Any, Lowering] = {
    aten.gather.default: gather,
    aten.scatter.src: scatter(None),
    aten.scatter.value: scatter(None),
    aten.scatter_add.default: scatter("add"),
    aten.scatter_reduce.two: scatter_reduce,
    aten.index_select.default: index_select,
    aten.index.Tensor: index,
    aten._unsafe_index.Tensor: index,
    aten.index_put.default: index_put,
    aten._unsafe_index_put.default: index_put,
}

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.put.default: _put,
    aten.masked_scatter_backward.default: _masked_scatter_backward,
}

COMPOSITES: dict[Any, Callable[..., Any]] = {
    aten.index_select_backward.default: _index_select_backward,
    aten.take_along_dim.default: _take_along_dim,
}

BATCHING: dict[Any, Callable[..., Any]] = {
    aten.gather.default: _along_axis(aten.gather.default),
    aten.scatter.src: _along_axis(aten.scatter.src),
    aten.scatter.value: _along_axis(aten.scatter.value),
    aten.scatter_add.default: _along_axis(aten.scatter_add.default),
    aten.scatter_reduce.two: _along_axis(aten.scatter_reduce.two),
    aten.index_add.default: _rows(aten.index_add.default),
    aten.index_copy.default: _rows(aten.index_copy.default),
    aten.index_select.default: mapped_kernel(aten.index_select.default, _index_select_batched),
}
