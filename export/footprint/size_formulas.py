"""Sizes that a file writes as formulas of its named sizes, such as `2*batch + 1`, as numbers."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction

import onnx

__all__ = ["evaluated", "put_sizes"]

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
    ast.Pow: lambda a, b: Fraction(a**b),
}
_FUNCTIONS: dict[str, Callable[..., Fraction]] = {
    "floor": lambda x: Fraction(math.floor(x)),
    "ceiling": lambda x: Fraction(math.ceil(x)),
    "Max": max,
    "Min": min,
    "Mod": operator.mod,
}


class _UnknownError(Exception):
    """A formula has a name or a function that is not known."""


def evaluated(formula: str, sizes: Mapping[str, int]) -> int | None:
    """Return the value of a formula; None if a name in it has no size.

    >>> evaluated("2*batch + floor(length/2)", {"batch": 3, "length": 5}), evaluated("unk__0", {"batch": 3})
    (8, None)
    """
    if formula in sizes:
        return sizes[formula]
    try:
        found = _value(ast.parse(formula, mode="eval").body, sizes)
    except (_UnknownError, SyntaxError, ZeroDivisionError):
        return None
    return int(found) if found.denominator == 1 else None


def _value(node: ast.expr, sizes: Mapping[str, int]) -> Fraction:
    match node:
        case ast.Constant(value=int(number)):
            return Fraction(number)
        case ast.Name(id=name) if name in sizes:
            return Fraction(sizes[name])
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, sizes)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, sizes), _value(right, sizes))
        case ast.Call(func=ast.Name(id=name), args=args) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_value(arg, sizes) for arg in args))
    raise _UnknownError


def put_sizes(graph: onnx.GraphProto, sizes: Mapping[str, int]) -> None:
    """Put numbers in the place of formulas, in place; shapes with another size are dropped, to be inferred."""
    kept = onnx.GraphProto(value_info=[value for value in graph.value_info if _put(value, sizes)])
    del graph.value_info[:]
    graph.value_info.extend(kept.value_info)
    for value in (*graph.input, *graph.output):
        _put(value, sizes)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                put_sizes(attribute.g, sizes)


def _put(value: onnx.ValueInfoProto, sizes: Mapping[str, int]) -> bool:
    """Put numbers into one shape; tell whether that is a number for each of its axes."""
    known = value.type.tensor_type.HasField("shape")
    for dim in value.type.tensor_type.shape.dim:
        number = evaluated(dim.dim_param, sizes) if dim.dim_param else None
        if number is not None:
            dim.dim_value = number
        known = known and dim.HasField("dim_value")
    return known
