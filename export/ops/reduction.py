"""Reductions over axes: sums, means, variances, extremes, norms, running sums."""

from __future__ import annotations

import functools
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
from export.ops.shared.long_sums import element_count, expected_size, mean_of, reduced, sum_of

__all__ = ["BATCHING", "DECOMPOSITIONS", "LOWERINGS", "moments"]

aten: Any = torch.ops.aten


def _axes(g: Builder, x: Any, dim: Any) -> list[int]:
    rank = len(g.shape_of(x))
    dims = [dim] if isinstance(dim, int) else list(dim or [])
    return sorted({d % rank for d in dims}) if dims and rank else list(range(rank))


def reduction(kind: str) -> Lowering:
    """Lower sums, means and products; half types are accumulated in float32, as in PyTorch."""

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
        shape = g.shape_of(x)
        if kind == "ReduceMean" and (None in sizes or 0 in sizes):  # ONNX Runtime's mean of nothing is 0, not NaN
            count = element_count(g, value, shape, axes)
            return g.cast(g.op("Div", sum_of(g, value, shape, axes, keepdim), count), result)
        if kind == "ReduceProd":
            return g.cast(reduced(g, kind, value, axes, keepdim), result)
        return g.cast((sum_of if kind == "ReduceSum" else mean_of)(g, value, shape, axes, keepdim), result)

    return rule


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
    value = g.cast(value, torch.int32) if g.dtypes[value] == torch.bool else value
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
    total = functools.partial(sum_of, g, shape=g.shape_of(x), axes=axes, keepdim=keepdim)
    order = 2 if order is None else order
    if order in (float("inf"), float("-inf")):
        size = g.op("Abs", value)
        result = reduced(g, "ReduceMax" if order > 0 else "ReduceMin", size, axes, keepdim)
        return g.cast(with_nan(g, size, result, axes, keepdim), dtype)
    if order == 2:
        return g.cast(g.op("Sqrt", total(g.op("Mul", value, value))), dtype)
    if order == 1:
        return g.cast(total(g.op("Abs", value)), dtype)
    if order == 0:
        other = g.op("Not", g.op("Equal", value, g.constant(0.0, inner), dtype=torch.bool))
        return g.cast(total(g.cast(other, inner)), dtype)
    powered = g.op("Pow", g.op("Abs", value), g.constant(float(order), inner))
    return g.cast(g.op("Pow", total(powered), g.constant(1 / float(order), inner)), dtype)


def logsumexp(g: Builder, node: Node, x: Any, dim: Any, keepdim: bool = False) -> ir.Value:
    """Compute log Σ exp x, shifted by the largest x unless that is infinite."""
    dtype = node_dtype(node)
    value, axes = g.tensor(x, dtype), _axes(g, x, dim)
    if not axes:
        return value
    top = g.op("ReduceMax", value, g.constant(axes), keepdims=1)
    safe = g.op("Where", g.op("IsInf", top, dtype=torch.bool), g.constant(0.0, dtype), top, dtype=dtype)
    total = sum_of(g, g.op("Exp", g.op("Sub", value, safe)), g.shape_of(x), axes, True)
    result = g.op("Add", g.op("Log", total), safe)
    return result if keepdim else g.op("Squeeze", result, g.constant(axes))


MAX_SERIAL_CUMSUM = 256
"""Terms up to which running sums are taken in their own dtype; longer ones in float64, as in PyTorch on a CPU."""


def cumsum(g: Builder, node: Node, x: Any, dim: int, *, dtype: Any = None) -> ir.Value:
    """Lower to CumSum; ONNX Runtime adds in the dtype that it is given."""
    dtype = node_dtype(node)
    value = g.tensor(x, dtype)
    if not g.shape_of(x):
        return value
    is_long = dtype.is_floating_point and expected_size(g, g.shape_of(x)[dim]) > MAX_SERIAL_CUMSUM
    return g.cast(g.op("CumSum", g.cast(value, torch.float64 if is_long else dtype), g.constant(dim)), dtype)


def primitive(kind: str) -> Lowering:
    """Lower PyTorch's primitive reductions, whose axes are given and dropped."""

    def rule(g: Builder, node: Node, x: Any, dims: Any, *_: Any, **__: Any) -> ir.Value:
        value, axes = g.tensor(x, node_dtype(node)), sorted(dims or ())
        if kind == "ReduceSum" and node_dtype(node).is_floating_point:
            return sum_of(g, value, g.shape_of(x), axes, False)
        return reduced(g, kind, value, axes, False)

    return rule


def moments(g: Builder, x: ir.Value, shape: Sequence[Any], axes: Sequence[int]) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return the mean, x minus the mean, and the biased variance, in two passes; axes in ascending order."""
    mean = mean_of(g, x, shape, axes, True)
    centred = g.op("Sub", x, mean)
    return mean, centred, mean_of(g, g.op("Mul", centred, centred), shape, axes, True)


def variance_mean(
    g: Builder, node: Node, x: Any, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[ir.Value, ir.Value]:
    """Return the variance and the mean."""
    shape = g.shape_of(x)
    axes = sorted(d % max(len(shape), 1) for d in (dim or range(len(shape))))
    value = g.tensor(x)
    dtype = g.dtypes[value]
    inner = accumulation_dtype(dtype)
    wide = g.cast(value, inner)
    mean = mean_of(g, wide, shape, axes, True)
    centred = g.op("Sub", wide, mean)
    total = sum_of(g, g.op("Mul", centred, centred), shape, axes, True)
    sizes = [g.static(shape[axis]) for axis in axes]
    lost = 1.0 if correction is None else float(correction)
    if None not in sizes:
        freedom = g.constant(max(math.prod(s for s in sizes if s is not None) - lost, 0.0), inner)
    else:
        count = element_count(g, wide, shape, axes)
        freedom = g.op("Max", g.op("Sub", count, g.constant(lost, inner)), g.constant(0.0, inner))
    result = g.op("Div", total, freedom)
    if not keepdim:
        result, mean = g.op("Squeeze", result, g.constant(axes)), g.op("Squeeze", mean, g.constant(axes))
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
