"""Integers as PyTorch computes them: modulo 2ⁿ and exact, where ONNX Runtime uses floating point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import Builder, Lowering, node_dtype

__all__ = ["LOWERINGS", "exact_product", "exact_sum", "power", "power_of_two"]

aten: Any = torch.ops.aten

_HALF_BITS = 32


def power(g: Builder, base: ir.Value, exponent: Any) -> ir.Value:
    """Raise integers to a power by squaring.

    Raises:
        UnsupportedOpError: if the exponent is a number below 0, which PyTorch refuses as well.
    """
    if isinstance(exponent, Node):
        return _tensor_power(g, base, g.tensor(exponent, g.dtypes[base]))
    if exponent < 0:
        raise g.unsupported("integers to negative powers are not integers; cast to a float first")
    result: ir.Value | None = None
    square, left = base, int(exponent)
    while left:
        if left % 2:
            result = square if result is None else g.op("Mul", result, square)
        left //= 2
        square = g.op("Mul", square, square) if left else square
    one = g.constant(1, g.dtypes[base])
    return result if result is not None else g.op("Expand", one, g.op("Shape", base, dtype=torch.int64))


def _tensor_power(g: Builder, base: ir.Value, exponent: ir.Value) -> ir.Value:
    """Square for each bit of the exponent; to a power below 0, only ±1 is not 0."""
    dtype = g.dtypes[base]
    zero, one, two = (g.constant(number, dtype) for number in (0, 1, 2))
    result, square, left = one, base, exponent
    for _ in range(_bits(dtype) - dtype.is_signed):
        odd = g.op("Mod", left, two)
        factor = g.op("Where", g.cast(odd, torch.bool), square, one, dtype=dtype)
        result, square = g.op("Mul", result, factor), g.op("Mul", square, square)
        left = g.op("Div", g.op("Sub", left, odd), two)
    if not dtype.is_signed:
        return result
    minus = g.constant(-1, dtype)
    parity = g.op("Where", g.cast(g.op("Mod", exponent, two), torch.bool), minus, one, dtype=dtype)
    inverse = g.op("Where", g.op("Equal", base, minus, dtype=torch.bool), parity, zero, dtype=dtype)
    inverse = g.op("Where", g.op("Equal", base, one, dtype=torch.bool), one, inverse, dtype=dtype)
    return g.op("Where", g.op("Less", exponent, zero, dtype=torch.bool), inverse, result, dtype=dtype)


def power_of_two(g: Builder, exponent: ir.Value, bits: int) -> ir.Value:
    """Return 2ⁿ modulo 2^bits, 0 for an exponent below 0 or from `bits` on."""
    dtype = g.dtypes[exponent]
    table = torch.tensor([*(2**i for i in range(bits - 1)), -(2 ** (bits - 1)), 0], dtype=torch.int64).to(dtype)
    outside = g.op("Less", exponent, g.constant(0, dtype), dtype=torch.bool)
    limited = g.op("Where", outside, g.constant(bits, dtype), exponent, dtype=dtype)
    limited = g.op("Min", g.cast(limited, torch.int64), g.constant(bits))
    return g.op("Gather", g.tensor_constant(table), limited, dtype=dtype)


def _bits(dtype: torch.dtype) -> int:
    return torch.iinfo(dtype).bits


def shift_left(g: Builder, node: Node, x: Any, y: Any) -> ir.Value:
    """x·2ⁿ, which is 0 from the dtype's number of bits on."""
    dtype = node_dtype(node)
    return g.op("Mul", g.tensor(x, dtype), power_of_two(g, g.tensor(y, dtype), _bits(dtype)))


def shift_right(g: Builder, node: Node, x: Any, y: Any) -> ir.Value:
    """The floor of x/2ⁿ, which is 0 or -1 from the dtype's number of bits on."""
    dtype = node_dtype(node)
    value, zero, last = g.tensor(x, dtype), g.constant(0, dtype), _bits(dtype) - (2 if dtype.is_signed else 1)
    count = g.tensor(y, dtype)
    sign = g.cast(g.op("Less", value, zero, dtype=torch.bool), dtype)
    sign = g.op("Sub", zero, sign)
    far = g.op("Greater", count, g.constant(last, dtype), dtype=torch.bool)
    far = g.op("Or", far, g.op("Less", count, zero, dtype=torch.bool))
    table = g.tensor_constant(torch.tensor([2**i for i in range(last + 1)], dtype=torch.int64).to(dtype))
    near = g.op("Where", far, zero, count, dtype=dtype)
    step = g.op("Gather", table, g.cast(near, torch.int64), dtype=dtype)
    quotient = g.op("Div", g.op("Sub", value, g.op("Mod", value, step)), step)
    return g.op("Where", far, sign, quotient, dtype=dtype)


def negated(g: Builder, node: Node, x: Any) -> ir.Value:
    """-x; by Sub for unsigned integers, for which ONNX has no Neg."""
    dtype = node_dtype(node)
    value = g.tensor(x, dtype)
    return g.op("Sub", g.constant(0, dtype), value) if dtype == torch.uint8 else g.op("Neg", value)


def exact_sum(g: Builder, value: ir.Value, axes: Sequence[int], keepdim: bool) -> ir.Value:
    """Sum 64-bit integers exactly, halves apart: ONNX Runtime adds them as floats."""
    where, step = g.constant(list(axes)), g.constant(2**_HALF_BITS)
    low = g.op("Mod", value, step)
    high = g.op("Div", g.op("Sub", value, low), step)
    sums = [g.op("ReduceSum", part, where, keepdims=int(keepdim)) for part in (low, high)]
    return g.op("Add", sums[0], g.op("Mul", sums[1], step))


def exact_product(g: Builder, value: ir.Value, axis: int, size: int | None) -> ir.Value:
    """Multiply 64-bit integers along an axis exactly, pairwise; the axis is kept with size 1.

    Raises:
        UnsupportedOpError: if the axis is dynamic.
    """
    if size is None:
        raise g.unsupported("a product of integers over a dynamic axis is inexact beyond 2⁵³; cast to a float first")
    where, one = g.constant([axis]), g.constant([1])

    def part(begin: int, end: int) -> ir.Value:
        return g.op("Slice", value, g.constant([begin]), g.constant([end]), where, one)

    while size > 1:
        half = size // 2
        pair = g.op("Mul", part(0, half), part(half, 2 * half))
        value = g.op("Concat", pair, part(2 * half, size), axis=axis) if size % 2 else pair
        size -= half
    return value


LOWERINGS: dict[Any, Lowering] = {
    aten.bitwise_left_shift.Tensor: shift_left,
    aten.bitwise_left_shift.Tensor_Scalar: shift_left,
    aten.bitwise_left_shift.Scalar_Tensor: shift_left,
    aten.__lshift__.Scalar: shift_left,
    aten.__lshift__.Tensor: shift_left,
    aten.bitwise_right_shift.Tensor: shift_right,
    aten.bitwise_right_shift.Tensor_Scalar: shift_right,
    aten.bitwise_right_shift.Scalar_Tensor: shift_right,
    aten.__rshift__.Scalar: shift_right,
    aten.__rshift__.Tensor: shift_right,
    aten.neg.default: negated,
}
