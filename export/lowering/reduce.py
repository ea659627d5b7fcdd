"""Reductions over axes."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.lowering.builder import REDUCED, Builder, Rule, node_dtype

aten: Any = torch.ops.aten


def _axes(g: Builder, x: Any, dim: Any) -> list[int]:
    rank = len(g.shape_of(x))
    dims = [dim] if isinstance(dim, int) else list(dim or [])
    return sorted({d % rank for d in dims}) if dims and rank else list(range(rank))


def reduced(g: Builder, kind: str, value: ir.Value, axes: list[int], keepdim: bool) -> ir.Value:
    """Reduce, or leave a scalar as it is."""
    if not axes:
        return value
    return g.op(kind, value, g.constant(axes), keepdims=int(keepdim))


LONG = 4096
"""Values over which a sum is taken axis by axis: ONNX Runtime adds one after another, PyTorch pairwise."""


DYNAMIC = 128
"""What a dynamic size counts for there: two of them are many values, one beside a few classes is not."""


def added(g: Builder, kind: str, x: Any, value: ir.Value, axes: list[int], keepdim: bool) -> ir.Value:
    """Sum or average; over many values one axis after another, last axis first, so that rounding errors stay small."""
    sizes = (g.shape_of(x)[axis] for axis in axes)
    count = math.prod(size if isinstance(size, int) else DYNAMIC for size in sizes)
    if len(axes) < 2 or count <= LONG:
        return reduced(g, kind, value, axes, keepdim)
    for axis in reversed(axes):
        value = reduced(g, kind, value, [axis], keepdim=True)
    return value if keepdim else g.op("Squeeze", value, g.constant(axes))


def reduction(kind: str) -> Rule:
    """Sums, means, products; half types are accumulated in float32, as PyTorch does."""
    reduce = reduced_product if kind == "ReduceProd" else added

    def rule(g: Builder, node: Node, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> ir.Value:
        result = node_dtype(node)
        inner = torch.float32 if result in REDUCED else result
        return g.cast(reduce(g, kind, x, g.tensor(x, inner), _axes(g, x, dim), keepdim), result)

    return rule


def reduced_product(g: Builder, kind: str, x: Any, value: ir.Value, axes: list[int], keepdim: bool) -> ir.Value:
    """Multiply, in one step."""
    return reduced(g, kind, value, axes, keepdim)


def extreme(kind: str) -> Rule:
    """Largest and smallest; booleans by way of int32."""

    def rule(g: Builder, node: Node, x: Any, dim: Any = None, keepdim: bool = False) -> ir.Value:
        dtype = node_dtype(node)
        value = g.tensor(x, torch.int32 if dtype == torch.bool else None)
        return g.cast(reduced(g, kind, value, _axes(g, x, dim), keepdim), dtype)

    return rule


def extreme_dim(kind: str, index: str) -> Rule:
    """Largest or smallest over one axis, with its position."""

    def rule(g: Builder, node: Node, x: Any, dim: int, keepdim: bool = False) -> tuple[ir.Value, ir.Value]:
        value = g.tensor(x)
        if not g.shape_of(x):
            return value, g.constant(0)
        values = g.op(kind, value, g.constant([dim]), keepdims=int(keepdim))
        return values, g.op(index, value, dtype=torch.int64, axis=dim, keepdims=int(keepdim))

    return rule


def arg_extreme(kind: str) -> Rule:
    """Position of the largest or smallest; over everything without ``dim``."""

    def rule(g: Builder, node: Node, x: Any, dim: int | None = None, keepdim: bool = False) -> ir.Value:
        value = g.tensor(x)
        rank = len(g.shape_of(x))
        if not rank:
            return g.constant(0)
        if dim is None:
            flat = g.op("Reshape", value, g.constant([-1]))
            found = g.op(kind, flat, dtype=torch.int64, axis=0, keepdims=0)
            return g.op("Reshape", found, g.constant([1] * rank)) if keepdim else found
        return g.op(kind, value, dtype=torch.int64, axis=dim, keepdims=int(keepdim))

    return rule


def truth(kind: str) -> Rule:
    """any and all: the largest or smallest of 0 and 1."""

    def rule(g: Builder, node: Node, x: Any, dim: Any = None, keepdim: bool = False) -> ir.Value:
        value = g.tensor(x)
        if g.dtypes[value] != torch.bool:
            value = g.op("Not", g.op("Equal", value, g.constant(0, g.dtypes[value]), dtype=torch.bool))
        number = g.cast(value, torch.int32)
        return g.cast(reduced(g, kind, number, _axes(g, x, dim), keepdim), torch.bool)

    return rule


def norm(g: Builder, node: Node, x: Any, order: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> ir.Value:
    """Vector norms of order 1, 2 and infinity."""
    dtype = node_dtype(node)
    inner = torch.float32 if dtype in REDUCED else dtype
    value, axes = g.tensor(x, inner), _axes(g, x, dim)
    order = 2 if order is None else order
    if order in (float("inf"), float("-inf")):
        return g.cast(reduced(g, "ReduceMax" if order > 0 else "ReduceMin", g.op("Abs", value), axes, keepdim), dtype)
    if order == 2:
        return g.cast(g.op("Sqrt", reduced(g, "ReduceSum", g.op("Mul", value, value), axes, keepdim)), dtype)
    if order == 1:
        return g.cast(reduced(g, "ReduceSum", g.op("Abs", value), axes, keepdim), dtype)
    if order == 0:
        raise g.unsupported("a norm of order 0 counts; write (x != 0).sum()")
    powered = g.op("Pow", g.op("Abs", value), g.constant(float(order), inner))
    return g.cast(
        g.op("Pow", reduced(g, "ReduceSum", powered, axes, keepdim), g.constant(1 / float(order), inner)), dtype
    )


def logsumexp(g: Builder, node: Node, x: Any, dim: Any, keepdim: bool = False) -> ir.Value:
    """log Σ exp x, shifted by the largest; an infinite shift counts as none."""
    dtype = node_dtype(node)
    value, axes = g.tensor(x, dtype), _axes(g, x, dim)
    if not axes:
        return value
    top = g.op("ReduceMax", value, g.constant(axes), keepdims=1)
    safe = g.op("Where", g.op("IsInf", top, dtype=torch.bool), g.constant(0.0, dtype), top, dtype=dtype)
    total = g.op("ReduceSum", g.op("Exp", g.op("Sub", value, safe)), g.constant(axes), keepdims=1)
    result = g.op("Add", g.op("Log", total), safe)
    return result if keepdim else g.op("Squeeze", result, g.constant(axes))


def cumsum(g: Builder, node: Node, x: Any, dim: int, *, dtype: Any = None) -> ir.Value:
    """Running sum."""
    value = g.tensor(x, node_dtype(node))
    return g.op("CumSum", value, g.constant(dim)) if g.shape_of(x) else value


TABLE: dict[Any, Rule] = {
    aten.sum.default: reduction("ReduceSum"), aten.sum.dim_IntList: reduction("ReduceSum"),
    aten.mean.default: reduction("ReduceMean"), aten.mean.dim: reduction("ReduceMean"),
    aten.prod.default: reduction("ReduceProd"), aten.prod.dim_int: reduction("ReduceProd"),
    aten.amax.default: extreme("ReduceMax"), aten.amin.default: extreme("ReduceMin"),
    aten.max.default: extreme("ReduceMax"), aten.min.default: extreme("ReduceMin"),
    aten.max.dim: extreme_dim("ReduceMax", "ArgMax"), aten.min.dim: extreme_dim("ReduceMin", "ArgMin"),
    aten.argmax.default: arg_extreme("ArgMax"), aten.argmin.default: arg_extreme("ArgMin"),
    aten.any.default: truth("ReduceMax"), aten.any.dim: truth("ReduceMax"), aten.any.dims: truth("ReduceMax"),
    aten.all.default: truth("ReduceMin"), aten.all.dim: truth("ReduceMin"), aten.all.dims: truth("ReduceMin"),
    aten.linalg_vector_norm.default: norm, aten.norm.Scalar: norm, aten.norm.ScalarOpt_dim: norm,
    aten.logsumexp.default: logsumexp, aten.cumsum.default: cumsum,
}  # fmt: skip
"""Reductions."""
