"""Arithmetic element by element: sums, products, quotients, powers and roundings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch._C import DispatchKey
from torch.fx import Node

from export.graph.builder import Builder, Lowering, node_dtype
from export.graph.onnx_types import REDUCED
from export.ops import integers
from export.ops.shared.kernels import pointwise, with_number

__all__ = ["BATCHING", "COMPOSITES", "DECOMPOSITIONS", "FORWARD_MODE", "LOWERINGS", "binary", "unary"]

aten: Any = torch.ops.aten


def unary(kind: str) -> Lowering:
    """Lower to the ONNX operator `kind`, after a cast to the result's dtype."""

    def rule(g: Builder, node: Node, x: Any, **_: Any) -> ir.Value:
        return g.op(kind, g.tensor(x, node_dtype(node)))

    return rule


def binary(kind: str) -> Lowering:
    """Lower to the ONNX operator `kind`, after a cast of both sides to the result's dtype."""

    def rule(g: Builder, node: Node, x: Any, y: Any, **_: Any) -> ir.Value:
        dtype = node_dtype(node)
        return g.op(kind, g.tensor(x, dtype), g.tensor(y, dtype))

    return rule


def scaled(kind: str) -> Lowering:
    """Lower to Add or Sub, with PyTorch's `alpha`."""

    def rule(g: Builder, node: Node, x: Any, y: Any, alpha: Any = 1, **_: Any) -> ir.Value:
        dtype = node_dtype(node)
        right = g.tensor(y, dtype)
        if alpha != 1:
            right = g.op("Mul", right, g.tensor(alpha, dtype))
        if dtype == torch.bool:
            return g.op("Or", g.tensor(x, dtype), right)
        return g.op(kind, g.tensor(x, dtype), right)

    return rule


def rsub(g: Builder, node: Node, x: Any, y: Any, alpha: Any = 1) -> ir.Value:
    """`y - alpha * x`."""
    return scaled("Sub")(g, node, y, x, alpha)


def _dtype_with(dtype: torch.dtype, *operands: Any) -> torch.dtype:
    """Return the dtype to compute in: float32 beside a number that a half type has too few digits for, or none.

    PyTorch reads such numbers in float32: the mean of 300,000 values divides by that, which float16 takes for inf.
    """
    if dtype not in REDUCED:
        return dtype
    numbers = [abs(x) for x in operands if isinstance(x, (int, float)) and not isinstance(x, bool)]
    limits = torch.finfo(dtype)
    odd = any(0 < x < limits.smallest_normal or limits.max < x < math.inf for x in numbers)
    return torch.float32 if odd else dtype


def mul(g: Builder, node: Node, x: Any, y: Any) -> ir.Value:
    """Multiply; And for booleans."""
    dtype = node_dtype(node)
    inner = _dtype_with(dtype, x, y)
    product = g.op("And" if dtype == torch.bool else "Mul", g.tensor(x, inner), g.tensor(y, inner))
    return g.cast(product, dtype)


def div(g: Builder, node: Node, x: Any, y: Any, rounding_mode: str | None = None) -> ir.Value:
    """Divide, with PyTorch's rounding modes."""
    dtype = node_dtype(node)
    if rounding_mode is None:
        inner = _dtype_with(dtype, x, y)
        return g.cast(g.op("Div", g.tensor(x, inner), g.tensor(y, inner)), dtype)
    left, right = g.tensor(x, dtype), g.tensor(y, dtype)
    if not dtype.is_floating_point:
        quotient = g.op("Div", left, right)  # truncates
        if rounding_mode == "trunc":
            return quotient
        rest = g.op("Sub", left, g.op("Mul", quotient, right))
        return g.op("Sub", quotient, g.cast(_opposed(g, rest, right), dtype))
    quotient = g.op("Div", left, right)
    if rounding_mode == "trunc":
        return truncated(g, quotient)
    # From the remainder, as in PyTorch: 6 // 0.1 is 59, though 6 / 0.1 rounds to 60.
    rest = g.op("Mod", left, right, fmod=1)
    whole = g.op("Div", g.op("Sub", left, rest), right)
    lower = g.op("Where", _opposed(g, rest, right), g.op("Sub", whole, g.constant(1.0, dtype)), whole, dtype=dtype)
    by_zero = g.op("Equal", right, g.constant(0.0, dtype), dtype=torch.bool)
    return g.op("Where", by_zero, quotient, g.op("Round", lower), dtype=dtype)


def _opposed(g: Builder, rest: ir.Value, divisor: ir.Value) -> ir.Value:
    """Tell where the remainder is not zero and its sign differs from the divisor's."""
    zero = g.constant(0, g.dtypes[rest])
    signs = [g.op("Less", value, zero, dtype=torch.bool) for value in (rest, divisor)]
    left_over = g.op("Not", g.op("Equal", rest, zero, dtype=torch.bool))
    return g.op("And", left_over, g.op("Xor", *signs))


def truncated(g: Builder, x: ir.Value) -> ir.Value:
    """Round towards zero."""
    return g.op("Mul", g.op("Sign", x), g.op("Floor", g.op("Abs", x)))


def trunc(g: Builder, node: Node, x: Any) -> ir.Value:
    """Round towards zero."""
    return truncated(g, g.tensor(x))


def remainder(g: Builder, node: Node, x: Any, y: Any) -> ir.Value:
    """Return the remainder with the divisor's sign."""
    dtype = node_dtype(node)
    left, right = g.tensor(x, dtype), g.tensor(y, dtype)
    if not dtype.is_floating_point:
        return g.op("Mod", left, right)
    rest = g.op("Mod", left, right, fmod=1)
    return g.op("Where", _opposed(g, rest, right), g.op("Add", rest, right), rest, dtype=dtype)


def fmod(g: Builder, node: Node, x: Any, y: Any) -> ir.Value:
    """Return the remainder with the dividend's sign, as C's fmod."""
    dtype = node_dtype(node)
    return g.op("Mod", g.tensor(x, dtype), g.tensor(y, dtype), fmod=1)


def power(g: Builder, node: Node, x: Any, y: Any) -> ir.Value:
    """Raise to a power; squares, roots and reciprocals by the operators that are exact."""
    dtype = node_dtype(node)
    if not dtype.is_floating_point:
        whole = _integer_power(g, dtype, x, y)
        if whole is not None:
            return whole
    if isinstance(x, Node) and not isinstance(y, Node):
        base = g.tensor(x, dtype)
        cheap = {0.5: "Sqrt", -1.0: "Reciprocal"}.get(float(y)) if dtype.is_floating_point else None
        if y == 1:
            return base
        if y == 2:
            return g.op("Mul", base, base)
        if y == 3:
            return g.op("Mul", g.op("Mul", base, base), base)
        if cheap:
            return g.op(cheap, base)
        if y == -0.5 and dtype.is_floating_point:
            return g.op("Reciprocal", g.op("Sqrt", base))
    return g.op("Pow", g.tensor(x, dtype), g.tensor(y, dtype))


def _integer_power(g: Builder, dtype: torch.dtype, x: Any, y: Any) -> ir.Value | None:
    """Return an exact power of integers; None where ONNX's Pow is exact."""
    if not isinstance(x, Node) and x == 2:
        return integers.power_of_two(g, g.tensor(y, dtype), torch.iinfo(dtype).bits)
    return None if dtype == torch.bool else integers.power(g, g.tensor(x, dtype), y)


def square(g: Builder, node: Node, x: Any) -> ir.Value:
    """x·x."""
    return g.op("Mul", g.tensor(x), g.tensor(x))


def rsqrt(g: Builder, node: Node, x: Any) -> ir.Value:
    """1/√x."""
    return g.op("Reciprocal", g.op("Sqrt", g.tensor(x, node_dtype(node))))


def _round_decimals(x: torch.Tensor, *, decimals: int) -> torch.Tensor:
    """Round to `decimals` decimal places; negative ones count before the point."""
    if decimals >= 0:
        return (x * 10.0**decimals).round() / 10.0**decimals
    return (x / 10.0**-decimals).round() * 10.0**-decimals


def _copysign(x: torch.Tensor, y: Any) -> torch.Tensor:
    """|x| with the sign of y."""
    dtype = torch.result_type(x, y)
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    other = y if isinstance(y, torch.Tensor) else torch.full_like(x, y, dtype=dtype)
    size = x.to(dtype).abs()
    return torch.where(signbit(other), -size, size)


def signbit(x: torch.Tensor) -> torch.Tensor:
    """Tell whether the sign is minus, that of a zero by its reciprocal; a NaN counts as positive."""
    if not x.is_floating_point():
        return x < 0
    return (x < 0) | ((x == 0) & (x.reciprocal() < 0))


def _hypot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """√(a² + b²), scaled by the larger so that nothing overflows."""
    high, low = torch.maximum(a.abs(), b.abs()), torch.minimum(a.abs(), b.abs())
    ratio = torch.where(high > 0, low / high, torch.zeros_like(low))
    infinite = a.isinf() | b.isinf()  # also beside NaN, as in C
    return torch.where(infinite, torch.full_like(high, math.inf), high * torch.sqrt(1 + ratio * ratio))


def _ldexp(x: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """Return x · 2 ** exponent."""
    return x * torch.pow(2.0, exponent)


def _sign(x: torch.Tensor) -> torch.Tensor:
    """Compute `aten.sgn`; its own forward derivative makes zeros by sizes as numbers."""
    result: torch.Tensor = aten.sgn.default._op_dk(DispatchKey.Autograd, x) if x.is_complex() else torch.sign(x)
    return result


LOWERINGS: dict[Any, Lowering] = {
    aten.abs.default: unary("Abs"), aten.sqrt.default: unary("Sqrt"), aten.reciprocal.default: unary("Reciprocal"),
    aten.floor.default: unary("Floor"), aten.ceil.default: unary("Ceil"), aten.round.default: unary("Round"),
    aten.sign.default: unary("Sign"), aten.sgn.default: unary("Sign"), aten.trunc.default: trunc,
    aten.fix.default: trunc, aten.rsqrt.default: rsqrt, aten.square.default: square,
    aten.add.Tensor: scaled("Add"), aten.add.Scalar: scaled("Add"), aten.sub.Tensor: scaled("Sub"),
    aten.sub.Scalar: scaled("Sub"), aten.rsub.Tensor: rsub, aten.rsub.Scalar: rsub,
    aten.mul.Tensor: mul, aten.mul.Scalar: mul, aten.div.Tensor: div, aten.div.Scalar: div,
    aten.div.Tensor_mode: div, aten.div.Scalar_mode: div,
    aten.remainder.Tensor: remainder, aten.remainder.Scalar: remainder,
    aten.remainder.Scalar_Tensor: remainder, aten.fmod.Tensor: fmod, aten.fmod.Scalar: fmod,
    aten.pow.Tensor_Tensor: power, aten.pow.Tensor_Scalar: power, aten.pow.Scalar: power,
}  # fmt: skip

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.round.decimals: _round_decimals,
    aten.copysign.Tensor: _copysign,
    aten.copysign.Scalar: _copysign,
    aten.signbit.default: signbit,
    aten.hypot.default: _hypot,
}

COMPOSITES: dict[Any, Callable[..., Any]] = {aten.ldexp.Tensor: _ldexp}

BATCHING: dict[Any, Callable[..., Any]] = {
    **pointwise(aten.addcdiv.default, aten.addcmul.default, aten.lerp.Scalar, aten.lerp.Tensor),
    **with_number(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.floor_divide.default),
}

FORWARD_MODE: dict[Any, Callable[..., Any]] = {aten.sgn.default: _sign}
