"""Sizes as numbers, and picking one of several results."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import Builder, Lowering

__all__ = ["LOWERINGS"]

aten: Any = torch.ops.aten


def getitem(g: Builder, node: Node, values: Any, position: int) -> Any:
    """Pick one of several results."""
    picked = g.values[values][position]
    if picked is None:
        raise g.unsupported(f"result {position} of {values.target} has no ONNX form")
    return picked


def sym_size(g: Builder, node: Node, x: Any, dim: int) -> ir.Value:
    """Return the size of an axis."""
    fixed = g.static(node)
    if fixed is not None:
        return g.constant([fixed])
    rank = len(g.shape_of(x))
    return g.dim(g.tensor(x), dim % rank)


def sym_stride(g: Builder, node: Node, x: Any, dim: int) -> ir.Value:
    """Return how many elements lie between neighbours on an axis of a tensor that lies in memory row by row."""
    value = x.meta["val"]
    stride: Any = 1
    for size in list(value.shape)[dim % value.dim() + 1 :]:
        stride = stride * size
    if not g.same_size(node, stride):
        raise g.unsupported("an ONNX tensor has no strides; call .contiguous() before")
    total = g.constant([1])
    for axis in range(dim % value.dim() + 1, value.dim()):
        total = g.op("Mul", total, g.dim(g.tensor(x), axis))
    return total


def sym_numel(g: Builder, node: Node, x: Any) -> ir.Value:
    """Return the number of elements."""
    return g.op("Reshape", g.op("Size", g.tensor(x), dtype=torch.int64), g.constant([1]))


def _number(g: Builder, arg: Any, dtype: torch.dtype) -> ir.Value:
    if isinstance(arg, Node):
        return g.cast(g.values[arg], dtype)
    return g.constant([arg], dtype)


def _number_dtype(args: Sequence[Any]) -> torch.dtype:
    values = [arg.meta["val"] if isinstance(arg, Node) else arg for arg in args]
    return torch.float64 if any(isinstance(v, (torch.SymFloat, float)) for v in values) else torch.int64


def arithmetic(kind: str, dtype: torch.dtype | None = None) -> Lowering:
    """Lower arithmetic on sizes to the ONNX operator `kind`."""

    def rule(g: Builder, node: Node, *args: Any) -> ir.Value:
        inner = dtype or _number_dtype(args)
        total = _number(g, args[0], inner)
        for arg in args[1:]:
            total = g.op(kind, total, _number(g, arg, inner))
        return total

    return rule


def sym_sum(g: Builder, node: Node, args: Sequence[Any]) -> ir.Value:
    """Add sizes."""
    return arithmetic("Add")(g, node, *args)


def floor_div(g: Builder, node: Node, a: Any, b: Any) -> ir.Value:
    """Divide as Python's `//`; differences of sizes may be negative."""
    left, right = _number(g, a, torch.int64), _number(g, b, torch.int64)
    rest = g.op("Mod", left, right)
    return g.op("Div", g.op("Sub", left, rest), right)


def negative(g: Builder, node: Node, a: Any) -> ir.Value:
    """Negate a size."""
    return g.op("Neg", _number(g, a, _number_dtype([a])))


def rounded(kind: str) -> Lowering:
    """Lower the floor or ceiling of a quotient of sizes."""

    def rule(g: Builder, node: Node, a: Any) -> ir.Value:
        return g.cast(g.op(kind, _number(g, a, torch.float64)), torch.int64)

    return rule


def as_float(g: Builder, node: Node, a: Any) -> ir.Value:
    """Return a size as a float."""
    return _number(g, a, torch.float64)


def as_int(g: Builder, node: Node, a: Any) -> ir.Value:
    """Round towards zero."""
    return g.cast(_number(g, a, torch.float64), torch.int64)


def power(g: Builder, node: Node, a: Any, b: Any) -> ir.Value:
    """Raise a size to a power."""
    return g.op("Pow", _number(g, a, _number_dtype([a, b])), _number(g, b, _number_dtype([a, b])))


def square_root(g: Builder, node: Node, a: Any) -> ir.Value:
    """Return the square root of a size."""
    return g.op("Sqrt", _number(g, a, torch.float64))


def compared(kind: str, negate: bool = False) -> Lowering:
    """Lower a comparison of sizes, to a boolean of shape (1,)."""

    def rule(g: Builder, node: Node, a: Any, b: Any) -> ir.Value:
        inner = _number_dtype([a, b])
        result = g.op(kind, _number(g, a, inner), _number(g, b, inner), dtype=torch.bool)
        return g.op("Not", result) if negate else result

    return rule


LOWERINGS: dict[Any, Lowering] = {
    operator.getitem: getitem, aten.sym_size.int: sym_size, aten.sym_numel.default: sym_numel,
    aten.sym_stride.int: sym_stride,
    operator.add: arithmetic("Add"), operator.sub: arithmetic("Sub"), operator.mul: arithmetic("Mul"),
    operator.truediv: arithmetic("Div", torch.float64), operator.floordiv: floor_div, operator.mod: arithmetic("Mod"),
    operator.neg: negative, operator.pow: power, torch.sym_sum: sym_sum, torch.sym_max: arithmetic("Max"),
    torch.sym_min: arithmetic("Min"), torch.sym_float: as_float, torch.sym_int: as_int, math.floor: rounded("Floor"),
    math.ceil: rounded("Ceil"), math.trunc: as_int, torch.sym_sqrt: square_root,
    operator.eq: compared("Equal"), operator.ne: compared("Equal", True), operator.lt: compared("Less"),
    operator.le: compared("LessOrEqual"), operator.gt: compared("Greater"), operator.ge: compared("GreaterOrEqual"),
}  # fmt: skip
