"""Gather, scatter, sort: tensors as positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.lowering.builder import Builder, Rule, node_dtype

aten: Any = torch.ops.aten


def gather(g: Builder, node: Node, x: Any, dim: int, index: Any, **_: Any) -> ir.Value:
    """Take along an axis, one position an element."""
    if not g.shape_of(x):
        return g.tensor(x) if not g.shape_of(index) else g.op("Expand", g.tensor(x), g.runtime_shape(index))
    return g.op("GatherElements", g.tensor(x), g.tensor(index), axis=dim)


def scatter(reduction: str | None) -> Rule:
    """Write or add along an axis."""

    def rule(g: Builder, node: Node, x: Any, dim: int, index: Any, source: Any, **_: Any) -> ir.Value:
        dtype = node_dtype(node)
        value = g.tensor(source, dtype)
        if not isinstance(source, Node):
            value = g.op("Expand", value, g.runtime_shape(index))
        elif [*map(str, g.shape_of(source))] != [*map(str, g.shape_of(index))]:
            count = len(g.shape_of(index))
            ends = g.runtime_shape(index)
            value = g.op("Slice", value, g.constant([0] * count), ends, g.constant(list(range(count))))
        return g.op("ScatterElements", g.tensor(x), g.tensor(index), value, axis=dim, reduction=reduction)

    return rule


def index_select(g: Builder, node: Node, x: Any, dim: int, index: Any) -> ir.Value:
    """Take positions of an axis."""
    return g.op("Gather", g.tensor(x), g.tensor(index), axis=dim)


def embedding(g: Builder, node: Node, weight: Any, index: Any, *_: Any) -> ir.Value:
    """Rows of a matrix."""
    return g.op("Gather", g.tensor(weight), g.tensor(index), axis=0)


def _positions(g: Builder, indices: Sequence[Any]) -> tuple[list[int], list[ir.Value], int]:
    """Indexed axes, their index tensors broadcast to one shape, and that shape's rank."""
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
    """Advanced indexing: one Gather for one index, GatherND for several."""
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
    stacked = g.op("Concat", *(g.unsqueeze(v, rank) for v in positions), axis=rank)
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
    result = g.op("ScatterND", moved, stacked, updates, reduction="add" if accumulate else None)
    return g.transpose(result, [order.index(i) for i in range(total)])


def topk(
    g: Builder, node: Node, x: Any, k: Any, dim: int = -1, largest: bool = True, order: bool = True
) -> tuple[ir.Value, ...]:
    """The k largest or smallest, with positions."""
    count = g.size(k)
    return g.ops(
        "TopK",
        g.tensor(x),
        count,
        count=2,
        dtypes=[None, torch.int64],
        axis=dim,
        largest=int(largest),
        sorted=int(order),
    )


def sort(g: Builder, node: Node, x: Any, dim: int = -1, descending: bool = False) -> tuple[ir.Value, ...]:
    """Sort an axis: TopK of everything, stable as ONNX Runtime prefers the lower position among equals."""
    value = g.tensor(x)
    if not g.shape_of(x):
        return value, g.constant(0)
    return g.ops(
        "TopK",
        value,
        g.dim(value, dim) if g.static(g.shape_of(x)[dim]) is None else g.size(g.shape_of(x)[dim]),
        count=2,
        dtypes=[None, torch.int64],
        axis=dim,
        largest=int(descending),
        sorted=1,
    )


def stable_sort(
    g: Builder, node: Node, x: Any, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[ir.Value, ...]:
    """Sort, keeping the order of equals."""
    return sort(g, node, x, dim, descending)


TABLE: dict[Any, Rule] = {
    aten.gather.default: gather,
    aten.scatter.src: scatter(None),
    aten.scatter.value: scatter(None),
    aten.scatter_add.default: scatter("add"),
    aten.index_select.default: index_select,
    aten.embedding.default: embedding,
    aten.index.Tensor: index,
    aten._unsafe_index.Tensor: index,
    aten.index_put.default: index_put,
    aten._unsafe_index_put.default: index_put,
    aten.topk.default: topk,
    aten.sort.default: sort,
    aten.sort.stable: stable_sort,
}
"""Gather, scatter, sort."""
