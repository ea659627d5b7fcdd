"""Reductions over axes: sums, means, variances, extremes, norms, running sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import Node

from export.graph.builder import Builder, Lowering, node_dtype
from export.graph.onnx_types import accumulation_dtype
from export.ops import integers
from export.ops.shared.kernels import pytorch_rules

__all__ = ["BATCHING", "DECOMPOSITIONS", "LOWERINGS", "moments", "sum_or_mean"]

aten: Any = torch.ops.aten


def _axes(g: Builder, x: Any, dim: Any) -> list[int]:
    rank = len(g.shape_of(x))
    dims = [dim] if isinstance(dim, int) else list(dim or [])
    return sorted({d % rank for d in dims}) if dims and rank else list(range(rank))


def reduced(g: Builder, kind: str, value: ir.Value, axes: list[int], keepdim: bool) -> ir.Value:
    """Reduce over axes; none leave the value as it is."""
    if not axes:
        return value
    return g.op(kind, value, g.constant(axes), keepdims=int(keepdim))


MAX_ELEMENTS_IN_ONE_SUM = 4096
"""Elements up to which a sum is one operator: ONNX Runtime adds sequentially, PyTorch pairwise."""

ASSUMED_DYNAMIC_SIZE = 128
"""The number of elements assumed for a dynamic size: two of them exceed the limit, one and a few classes do not."""


def sum_or_mean(g: Builder, kind: str, x: Any, value: ir.Value, axes: list[int], keepdim: bool) -> ir.Value:
    """Sum or average; many elements axis by axis, the last axis first, which bounds the rounding error."""
    sizes = (g.shape_of(x)[axis] for axis in axes)
    count = math.prod(size if isinstance(size, int) else ASSUMED_DYNAMIC_SIZE for size in sizes)
    if len(axes) < 2 or count <= MAX_ELEMENTS_IN_ONE_SUM:
        return reduced(g, kind, value, axes, keepdim)
    for axis in reversed(axes):
        value = reduced(g, kind, value, [axis], keepdim=True)
    return value if keepdim else g.op("Squeeze", value, g.constant(axes))


def reduction(kind: str) -> Lowering:
    """Lower sums, means and products; half types are accumulated in float32, as in PyTorch."""
    reduce = reduced_product if kind == "ReduceProd" else sum_or_mean

    def rule(g: Builder, node: Node, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> ir.Value:
        result = node_dtype(node)
        inner = accumulation_dtype(result)
        value, axes = g.tensor(x, inner), _axes(g, x, dim)
        sizes = [g.static(g.shape_of(x)[axis]) for axis in axes]
        if kind == "ReduceSum" and axes and x.meta["val"].dtype == torch.int64:
            return integers.exact_sum(g, value, axes, keepdim)
        if kind == "ReduceProd" and x.meta["val"].dtype == torch.int64:
            for axis, size in zip(axes, sizes, strict=True):
                value = integers.exact_product(g, value, axis, size)
            if 0 not in sizes:
                return value if keepdim or not axes else g.op("Squeeze", value, g.constant(axes))
        if kind == "ReduceMean" and (None in sizes or 0 in sizes):  # ONNX Runtime's mean of nothing is 0, not NaN
            count = g.op("ReduceProd", g.op("Gather", g.op("Shape", value, dtype=torch.int64), g.constant(axes)))
            count = g.op("Reshape", count, g.constant([], torch.int64))
            return g.cast(
                g.op("Div", sum_or_mean(g, "ReduceSum", x, value, axes, keepdim), g.cast(count, inner)), result
            )
        return g.cast(reduce(g, kind, x, value, axes, keepdim), result)

    return rule


def reduced_product(g: Builder, kind: str, x: Any, value: ir.Value, axes: list[int], keepdim: bool) -> ir.Value:
    """Multiply over axes."""
    return reduced(g, kind, value, axes, keepdim)


def with_nan(g: Builder, value: ir.Value, result: ir.Value, axes: list[int], keepdim: bool) -> ir.Value:
    """Put NaN where one was among the values, as in PyTorch; ONNX Runtime's extremes lose it."""
    dtype = g.dtypes[value]
    if not dtype.is_floating_point or not axes:
        return result
    unknown = g.cast(g.op("IsNaN", value, dtype=torch.bool), torch.int32)
    found = g.cast(g.op("ReduceMax", unknown, g.constant(axes), keepdims=int(keepdim)), torch.bool)
    return g.op("Where", found, g.constant(float("nan"), dtype), result, dtype=dtype)


def position(g: Builder, kind: str, value: ir.Value, axis: int, keepdim: bool) -> ir.Value:
    """Return the position of the largest or smallest; the first NaN wins."""
    if g.dtypes[value].is_floating_point:
        extreme = g.constant(float("inf") if kind == "ArgMax" else -float("inf"), g.dtypes[value])
        unknown = g.op("IsNaN", value, dtype=torch.bool)
        found = g.cast(g.op("ReduceMax", g.cast(unknown, torch.int32), g.constant([axis]), keepdims=1), torch.bool)
        marks = g.op("Where", unknown, extreme, g.op("Neg", extreme), dtype=g.dtypes[value])
        value = g.op("Where", found, marks, value, dtype=g.dtypes[value])
    return g.op(kind, value, dtype=torch.int64, axis=axis, keepdims=int(keepdim))


def extreme(kind: str) -> Lowering:
    """Lower to the largest or smallest; booleans are cast to int32."""

    def rule(g: Builder, node: Node, x: Any, dim: Any = None, keepdim: bool = False) -> ir.Value:
        dtype = node_dtype(node)
        value, axes = g.tensor(x, torch.int32 if dtype == torch.bool else None), _axes(g, x, dim)
        return g.cast(with_nan(g, value, reduced(g, kind, value, axes, keepdim), axes, keepdim), dtype)

    return rule


def extreme_dim(kind: str, index: str) -> Lowering:
    """Lower to the largest or smallest along one axis, with its position."""

    def rule(g: Builder, node: Node, x: Any, dim: int, keepdim: bool = False) -> tuple[ir.Value, ir.Value]:
        value = g.tensor(x)
        if not g.shape_of(x):
            return value, g.constant(0)
        values = g.op(kind, value, g.constant([dim]), keepdims=int(keepdim))
        values = with_nan(g, value, values, [dim], keepdim)
        return values, position(g, index, value, dim, keepdim)

    return rule


def arg_extreme(kind: str) -> Lowering:
    """Lower to the position of the largest or smallest, in the flattened tensor without `dim`."""

    def rule(g: Builder, node: Node, x: Any, dim: int | None = None, keepdim: bool = False) -> ir.Value:
        value = g.tensor(x)
        rank = len(g.shape_of(x))
        if not rank:
            return g.constant(0)
        if dim is None:
            flat = g.op("Reshape", value, g.constant([-1]))
            found = position(g, kind, flat, 0, False)
            return g.op("Reshape", found, g.constant([1] * rank)) if keepdim else found
        return position(g, kind, value, dim, keepdim)

    return rule


def any_or_all(everything: bool) -> Lowering:
    """Lower `any` or `all` by counting, which is right for empty tensors as well."""

    def rule(g: Builder, node: Node, x: Any, dim: Any = None, keepdim: bool = False) -> ir.Value:
        value = g.tensor(x)
        if g.dtypes[value] != torch.bool:
            value = g.op("Not", g.op("Equal", value, g.constant(0, g.dtypes[value]), dtype=torch.bool))
        value = g.op("Not", value) if everything else value
        found = g.cast(reduced(g, "ReduceSum", g.cast(value, torch.int32), _axes(g, x, dim), keepdim), torch.bool)
        return g.cast(g.op("Not", found) if everything else found, node_dtype(node))

    return rule


def norm(g: Builder, node: Node, x: Any, order: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> ir.Value:
    """Compute a vector norm of any order; order 0 counts the elements that are not zero."""
    dtype = node_dtype(node)
    inner = accumulation_dtype(dtype)
    value, axes = g.tensor(x, inner), _axes(g, x, dim)
    order = 2 if order is None else order
    if order in (float("inf"), float("-inf")):
        size = g.op("Abs", value)
        result = reduced(g, "ReduceMax" if order > 0 else "ReduceMin", size, axes, keepdim)
        return g.cast(with_nan(g, size, result, axes, keepdim), dtype)
    if order == 2:
        return g.cast(g.op("Sqrt", reduced(g, "ReduceSum", g.op("Mul", value, value), axes, keepdim)), dtype)
    if order == 1:
        return g.cast(reduced(g, "ReduceSum", g.op("Abs", value), axes, keepdim), dtype)
    if order == 0:
        other = g.op("Not", g.op("Equal", value, g.constant(0.0, inner), dtype=torch.bool))
        return g.cast(reduced(g, "ReduceSum", g.cast(other, inner), axes, keepdim), dtype)
    powered = g.op("Pow", g.op("Abs", value), g.constant(float(order), inner))
    return g.cast(
        g.op("Pow", reduced(g, "ReduceSum", powered, axes, keepdim), g.constant(1 / float(order), inner)), dtype
    )


def logsumexp(g: Builder, node: Node, x: Any, dim: Any, keepdim: bool = False) -> ir.Value:
    """Compute log Σ exp x, shifted by the largest x unless that is infinite."""
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
    """Lower to CumSum."""
    value = g.tensor(x, node_dtype(node))
    return g.op("CumSum", value, g.constant(dim)) if g.shape_of(x) else value


def primitive(kind: str) -> Lowering:
    """Lower PyTorch's primitive reductions, whose axes are given and dropped."""

    def rule(g: Builder, node: Node, x: Any, dims: Any, *_: Any, **__: Any) -> ir.Value:
        return reduced(g, kind, g.tensor(x, node_dtype(node)), list(dims or ()), False)

    return rule


def moments(g: Builder, x: ir.Value, axes: Sequence[int]) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return the mean, x minus the mean, and the biased variance, in two passes."""
    where = g.constant(list(axes))
    mean = g.op("ReduceMean", x, where, keepdims=1)
    centred = g.op("Sub", x, mean)
    return mean, centred, g.op("ReduceMean", g.op("Mul", centred, centred), where, keepdims=1)


def variance_mean(
    g: Builder, node: Node, x: Any, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[ir.Value, ir.Value]:
    """Return the variance and the mean."""
    shape = g.shape_of(x)
    axes = sorted(d % max(len(shape), 1) for d in (dim or range(len(shape))))
    value = g.tensor(x)
    dtype = g.dtypes[value]
    inner = accumulation_dtype(dtype)
    mean, centred, _ = moments(g, g.cast(value, inner), axes)
    where = g.constant(axes)
    total = g.op("ReduceSum", g.op("Mul", centred, centred), where, keepdims=1)
    sizes = [g.static(shape[axis]) for axis in axes]
    lost = 1.0 if correction is None else float(correction)
    if None not in sizes:
        freedom = g.constant(max(math.prod(s for s in sizes if s is not None) - lost, 0.0), inner)
    else:
        count = g.op("ReduceProd", g.op("Gather", g.op("Shape", g.tensor(x), dtype=torch.int64), where), keepdims=0)
        freedom = g.op("Max", g.op("Sub", g.cast(count, inner), g.constant(lost, inner)), g.constant(0.0, inner))
    result = g.op("Div", total, freedom)
    if not keepdim:
        result, mean = g.op("Squeeze", result, where), g.op("Squeeze", mean, where)
    return g.cast(result, dtype), g.cast(mean, dtype)


def variance(g: Builder, node: Node, x: Any, dim: Any = None, **settings: Any) -> ir.Value:
    """Return the variance."""
    return variance_mean(g, node, x, dim, **settings)[0]


def _count_nonzero(x: Tensor, dim: Any = None) -> Tensor:
    """Compute `aten.count_nonzero` as a sum."""
    return (x != 0).sum(dim)


prims: Any = torch.ops.prims

LOWERINGS: dict[Any, Lowering] = {
    aten.sum.default: reduction("ReduceSum"), aten.sum.dim_IntList: reduction("ReduceSum"),
    aten.mean.default: reduction("ReduceMean"), aten.mean.dim: reduction("ReduceMean"),
    aten.prod.default: reduction("ReduceProd"), aten.prod.dim_int: reduction("ReduceProd"),
    aten.var_mean.correction: variance_mean, aten.var.correction: variance,
    aten.amax.default: extreme("ReduceMax"), aten.amin.default: extreme("ReduceMin"),
    aten.max.default: extreme("ReduceMax"), aten.min.default: extreme("ReduceMin"),
    aten.max.dim: extreme_dim("ReduceMax", "ArgMax"), aten.min.dim: extreme_dim("ReduceMin", "ArgMin"),
    aten.argmax.default: arg_extreme("ArgMax"), aten.argmin.default: arg_extreme("ArgMin"),
    aten.any.default: any_or_all(False), aten.any.dim: any_or_all(False), aten.any.dims: any_or_all(False),
    aten.all.default: any_or_all(True), aten.all.dim: any_or_all(True), aten.all.dims: any_or_all(True),
    aten.linalg_vector_norm.default: norm, aten.norm.Scalar: norm, aten.norm.ScalarOpt_dim: norm,
    aten.logsumexp.default: logsumexp, aten.cumsum.default: cumsum,
    prims.sum.default: primitive("ReduceSum"), prims.prod.default: primitive("ReduceProd"),
}  # fmt: skip

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = pytorch_rules(aten.cumprod.default)

BATCHING: dict[Any, Callable[..., Any]] = {
    aten.count_nonzero.default: _count_nonzero,
    aten.count_nonzero.dim_IntList: _count_nonzero,
}
