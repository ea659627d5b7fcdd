"""One number in, one number out: arithmetic, comparisons, casts and activations."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import REDUCED, Builder, Rule, node_dtype
from export.ops import integers

aten: Any = torch.ops.aten


def unary(kind: str) -> Rule:
    """ONNX has the operator; integers are cast to the result's dtype first."""

    def rule(g: Builder, node: Node, x: Any, **_: Any) -> ir.Value:
        return g.op(kind, g.tensor(x, node_dtype(node)))

    return rule


def binary(kind: str) -> Rule:
    """Both sides are cast to the result's dtype."""

    def rule(g: Builder, node: Node, x: Any, y: Any, **_: Any) -> ir.Value:
        dtype = node_dtype(node)
        return g.op(kind, g.tensor(x, dtype), g.tensor(y, dtype))

    return rule


def scaled(kind: str) -> Rule:
    """Add and Sub with PyTorch's ``alpha``."""

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
    """``y - alpha * x``."""
    return scaled("Sub")(g, node, y, x, alpha)


def common(g: Builder, *args: Any) -> torch.dtype:
    """Return PyTorch's result type of the arguments."""
    values = [arg.meta["val"] if isinstance(arg, Node) else arg for arg in args]
    values = [1 if isinstance(v, torch.SymInt) else 1.0 if isinstance(v, torch.SymFloat) else v for v in values]
    return torch.result_type(*values)


def compare(kind: str, negate: bool = False) -> Rule:
    """Compare in the two sides' common dtype."""

    def rule(g: Builder, node: Node, x: Any, y: Any) -> ir.Value:
        dtype = common(g, x, y)
        if dtype == torch.bool and kind != "Equal":
            dtype = torch.int32
        result = g.op(kind, g.tensor(x, dtype), g.tensor(y, dtype), dtype=torch.bool)
        return g.op("Not", result) if negate else result

    return rule


def mul(g: Builder, node: Node, x: Any, y: Any) -> ir.Value:
    """Multiply; booleans by And."""
    dtype = node_dtype(node)
    return g.op("And" if dtype == torch.bool else "Mul", g.tensor(x, dtype), g.tensor(y, dtype))


def div(g: Builder, node: Node, x: Any, y: Any, rounding_mode: str | None = None) -> ir.Value:
    """Divide, with PyTorch's rounding modes."""
    dtype = node_dtype(node)
    if rounding_mode is None:
        return g.op("Div", g.tensor(x, dtype), g.tensor(y, dtype))
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
    # By what is left over, as in PyTorch: 6 // 0.1 is 59, though 6 / 0.1 rounds to 60.
    rest = g.op("Mod", left, right, fmod=1)
    whole = g.op("Div", g.op("Sub", left, rest), right)
    lower = g.op("Where", _opposed(g, rest, right), g.op("Sub", whole, g.constant(1.0, dtype)), whole, dtype=dtype)
    by_zero = g.op("Equal", right, g.constant(0.0, dtype), dtype=torch.bool)
    return g.op("Where", by_zero, quotient, g.op("Round", lower), dtype=dtype)


def _opposed(g: Builder, rest: ir.Value, divisor: ir.Value) -> ir.Value:
    """Tell where something is left over of the other sign than the divisor."""
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
    """PyTorch's remainder takes the divisor's sign."""
    dtype = node_dtype(node)
    left, right = g.tensor(x, dtype), g.tensor(y, dtype)
    if not dtype.is_floating_point:
        return g.op("Mod", left, right)
    rest = g.op("Mod", left, right, fmod=1)
    return g.op("Where", _opposed(g, rest, right), g.op("Add", rest, right), rest, dtype=dtype)


def fmod(g: Builder, node: Node, x: Any, y: Any) -> ir.Value:
    """C's fmod takes the dividend's sign."""
    dtype = node_dtype(node)
    return g.op("Mod", g.tensor(x, dtype), g.tensor(y, dtype), fmod=1)


def power(g: Builder, node: Node, x: Any, y: Any) -> ir.Value:
    """Power; squares, roots and reciprocals by the exact cheap operator."""
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
    """An exact power of integers: of two, or by a number; None for what ONNX has exactly."""
    if not isinstance(x, Node) and x == 2:
        return integers.power_of_two(g, g.tensor(y, dtype), torch.iinfo(dtype).bits)
    return None if dtype == torch.bool else integers.power(g, g.tensor(x, dtype), y)


def square(g: Builder, node: Node, x: Any) -> ir.Value:
    """x·x."""
    return g.op("Mul", g.tensor(x), g.tensor(x))


def rsqrt(g: Builder, node: Node, x: Any) -> ir.Value:
    """1/√x."""
    return g.op("Reciprocal", g.op("Sqrt", g.tensor(x, node_dtype(node))))


def expm1(g: Builder, node: Node, x: Any) -> ir.Value:
    """Eˣ-1 without cancellation near zero: 2·tanh(x/2)/(1-tanh(x/2)), exact at infinity by Elu below zero."""
    value = g.tensor(x, node_dtype(node))
    dtype = node_dtype(node)
    half = g.op("Tanh", g.op("Mul", value, g.constant(0.5, dtype)))
    near = g.op("Div", g.op("Mul", half, g.constant(2.0, dtype)), g.op("Sub", g.constant(1.0, dtype), half))
    far = g.op("Sub", g.op("Exp", value), g.constant(1.0, dtype))
    small = g.op("Less", g.op("Abs", value), g.constant(0.5, dtype), dtype=torch.bool)
    return g.op("Where", small, near, far, dtype=dtype)


def log1p(g: Builder, node: Node, x: Any) -> ir.Value:
    """log(1+x) without cancellation: x·log(u)/(u-1) with u = 1+x (Kahan)."""
    dtype = node_dtype(node)
    value, one = g.tensor(x, dtype), g.constant(1.0, dtype)
    u = g.op("Add", value, one)
    gap = g.op("Sub", u, one)
    plain = g.op("Log", u)
    tiny = g.op("Equal", gap, g.constant(0.0, dtype), dtype=torch.bool)
    infinite = g.op("IsInf", u, dtype=torch.bool)
    safe = g.op("Where", g.op("Or", tiny, infinite), one, gap, dtype=dtype)
    corrected = g.op("Where", infinite, plain, g.op("Mul", value, g.op("Div", plain, safe)), dtype=dtype)
    return g.op("Where", tiny, value, corrected, dtype=dtype)


def log_base(base: float) -> Rule:
    """Logarithm to a base."""

    def rule(g: Builder, node: Node, x: Any) -> ir.Value:
        dtype = node_dtype(node)
        return g.op("Mul", g.op("Log", g.tensor(x, dtype)), g.constant(1 / math.log(base), dtype))

    return rule


def exp2(g: Builder, node: Node, x: Any) -> ir.Value:
    """2ˣ."""
    dtype = node_dtype(node)
    return g.op("Pow", g.constant(2.0, dtype), g.tensor(x, dtype))


def clamp(g: Builder, node: Node, x: Any, low: Any = None, high: Any = None) -> ir.Value:
    """Limit from below and above by Max and Min, which keep NaN as PyTorch does."""
    dtype = node_dtype(node)
    value = g.tensor(x, dtype)
    if low is not None:
        value = g.op("Max", value, g.tensor(low, dtype))
    return g.op("Min", value, g.tensor(high, dtype)) if high is not None else value


def where(g: Builder, node: Node, condition: Any, x: Any, y: Any) -> ir.Value:
    """Select."""
    dtype = node_dtype(node)
    return g.op("Where", g.tensor(condition, torch.bool), g.tensor(x, dtype), g.tensor(y, dtype), dtype=dtype)


def masked_fill(g: Builder, node: Node, x: Any, mask: Any, value: Any) -> ir.Value:
    """Select a constant where the mask holds."""
    return where(g, node, mask, value, x)


def identity(g: Builder, node: Node, x: Any, *_: Any, **__: Any) -> ir.Value:
    """Nothing to do: memory layout, aliasing and detaching have no meaning in ONNX."""
    return g.tensor(x, node_dtype(node))


def copy(g: Builder, node: Node, target: Any, source: Any, *_: Any) -> ir.Value:
    """The source, cast and broadcast to the target."""
    value = g.tensor(source, node_dtype(node))
    if list(source.meta["val"].shape) == list(target.meta["val"].shape):
        return value
    return g.op("Expand", value, g.runtime_shape(target))


def logical(kind: str) -> Rule:
    """Boolean operators on anything; bitwise ones on booleans and integers."""
    bitwise = {"And": "BitwiseAnd", "Or": "BitwiseOr", "Xor": "BitwiseXor"}

    def rule(g: Builder, node: Node, x: Any, y: Any) -> ir.Value:
        dtype = node_dtype(node)
        return g.op(kind if dtype == torch.bool else bitwise[kind], g.tensor(x, dtype), g.tensor(y, dtype))

    return rule


def logical_not(g: Builder, node: Node, x: Any) -> ir.Value:
    """Not, on booleans and on integers bit by bit."""
    dtype = node_dtype(node)
    return g.op("Not" if dtype == torch.bool else "BitwiseNot", g.tensor(x, dtype))


def test(kind: str) -> Rule:
    """IsNaN and the like; half types by way of float32."""

    def rule(g: Builder, node: Node, x: Any) -> ir.Value:
        dtype = x.meta["val"].dtype
        return g.op(
            kind,
            g.tensor(x, torch.float32 if dtype in REDUCED or not dtype.is_floating_point else None),
            dtype=torch.bool,
        )

    return rule


def isfinite(g: Builder, node: Node, x: Any) -> ir.Value:
    """Neither infinite nor NaN."""
    return g.op("Not", g.op("Or", test("IsNaN")(g, node, x), test("IsInf")(g, node, x)))


def atan2(g: Builder, node: Node, y: Any, x: Any) -> ir.Value:
    """The angle of (x, y), from Atan and the quadrant; zeros have signs and infinities directions, as in C."""
    dtype = node_dtype(node)
    up, right, zero = g.tensor(y, dtype), g.tensor(x, dtype), g.constant(0.0, dtype)
    far = [g.op("IsInf", value, dtype=torch.bool) for value in (up, right)]
    nil = [g.op("Equal", value, zero, dtype=torch.bool) for value in (up, right)]
    quotient = g.op("Div", up, right)
    signs = g.op("Div", g.op("Sign", up), g.op("Sign", right))
    angle = g.op("Atan", g.op("Where", g.op("And", *far), signs, quotient, dtype=dtype))
    angle = g.op("Where", g.op("And", *nil), up, angle, dtype=dtype)
    turn = g.op("Where", _minus(g, up), g.constant(-math.pi, dtype), g.constant(math.pi, dtype), dtype=dtype)
    return g.op("Where", _minus(g, right), g.op("Add", angle, turn), angle, dtype=dtype)


def _minus(g: Builder, x: ir.Value) -> ir.Value:
    """Tell where the sign is minus, that of a zero by its reciprocal."""
    zero = g.constant(0.0, g.dtypes[x])
    below = g.op("Less", x, zero, dtype=torch.bool)
    inverse = g.op("Less", g.op("Reciprocal", x), zero, dtype=torch.bool)
    return g.op("Or", below, g.op("And", g.op("Equal", x, zero, dtype=torch.bool), inverse))


TABLE: dict[Any, Rule] = {
    aten.abs.default: unary("Abs"), aten.exp.default: unary("Exp"),
    aten.log.default: unary("Log"), aten.sqrt.default: unary("Sqrt"), aten.sin.default: unary("Sin"),
    aten.cos.default: unary("Cos"), aten.tan.default: unary("Tan"), aten.asin.default: unary("Asin"),
    aten.acos.default: unary("Acos"), aten.atan.default: unary("Atan"), aten.sinh.default: unary("Sinh"),
    aten.cosh.default: unary("Cosh"), aten.asinh.default: unary("Asinh"), aten.acosh.default: unary("Acosh"),
    aten.atanh.default: unary("Atanh"), aten.erf.default: unary("Erf"), aten.reciprocal.default: unary("Reciprocal"),
    aten.floor.default: unary("Floor"), aten.ceil.default: unary("Ceil"), aten.round.default: unary("Round"),
    aten.sign.default: unary("Sign"), aten.sgn.default: unary("Sign"), aten.trunc.default: trunc,
    aten.fix.default: trunc,
    aten.rsqrt.default: rsqrt, aten.expm1.default: expm1, aten.log1p.default: log1p, aten.exp2.default: exp2,
    aten.log2.default: log_base(2), aten.log10.default: log_base(10), aten.square.default: square,
    aten.add.Tensor: scaled("Add"), aten.add.Scalar: scaled("Add"), aten.sub.Tensor: scaled("Sub"),
    aten.sub.Scalar: scaled("Sub"), aten.rsub.Tensor: rsub, aten.rsub.Scalar: rsub,
    aten.mul.Tensor: mul, aten.mul.Scalar: mul, aten.div.Tensor: div, aten.div.Scalar: div,
    aten.div.Tensor_mode: div, aten.div.Scalar_mode: div,
    aten.remainder.Tensor: remainder, aten.remainder.Scalar: remainder,
    aten.remainder.Scalar_Tensor: remainder, aten.fmod.Tensor: fmod, aten.fmod.Scalar: fmod,
    aten.pow.Tensor_Tensor: power, aten.pow.Tensor_Scalar: power, aten.pow.Scalar: power, aten.atan2.default: atan2,
    aten.maximum.default: binary("Max"), aten.minimum.default: binary("Min"),
    aten.eq.Tensor: compare("Equal"), aten.eq.Scalar: compare("Equal"),
    aten.ne.Tensor: compare("Equal", True), aten.ne.Scalar: compare("Equal", True),
    aten.gt.Tensor: compare("Greater"), aten.gt.Scalar: compare("Greater"),
    aten.ge.Tensor: compare("GreaterOrEqual"), aten.ge.Scalar: compare("GreaterOrEqual"),
    aten.lt.Tensor: compare("Less"), aten.lt.Scalar: compare("Less"),
    aten.le.Tensor: compare("LessOrEqual"), aten.le.Scalar: compare("LessOrEqual"),
    aten.logical_and.default: logical("And"), aten.logical_or.default: logical("Or"),
    aten.logical_xor.default: logical("Xor"), aten.bitwise_and.Tensor: logical("And"),
    aten.bitwise_or.Tensor: logical("Or"), aten.bitwise_xor.Tensor: logical("Xor"),
    aten.bitwise_and.Scalar: logical("And"), aten.bitwise_xor.Scalar: logical("Xor"),
    aten.bitwise_and.Scalar_Tensor: logical("And"), aten.bitwise_or.Scalar_Tensor: logical("Or"),
    aten.bitwise_xor.Scalar_Tensor: logical("Xor"),
    aten.bitwise_or.Scalar: logical("Or"), aten.logical_not.default: logical_not, aten.bitwise_not.default: logical_not,
    aten.isnan.default: test("IsNaN"), aten.isinf.default: test("IsInf"), aten.isfinite.default: isfinite,
    aten.clamp.default: clamp, aten.clamp.Tensor: clamp,
    aten.clamp_min.default: lambda g, n, x, low: clamp(g, n, x, low),
    aten.clamp_min.Tensor: lambda g, n, x, low: clamp(g, n, x, low),
    aten.clamp_max.default: lambda g, n, x, high: clamp(g, n, x, None, high),
    aten.clamp_max.Tensor: lambda g, n, x, high: clamp(g, n, x, None, high),
    aten.where.self: where, aten.where.ScalarSelf: where, aten.where.ScalarOther: where, aten.where.Scalar: where,
    aten.masked_fill.Scalar: masked_fill, aten.masked_fill.Tensor: masked_fill,
    aten.clone.default: identity, aten.detach.default: identity, aten.alias.default: identity,
    aten.contiguous.default: identity, aten.lift_fresh_copy.default: identity, aten.lift_fresh.default: identity,
    aten._to_copy.default: identity, aten.to.dtype: identity, aten.positive.default: identity,
    torch.ops.prims.convert_element_type.default: identity, torch.ops.prims.device_put.default: identity,
    aten.copy.default: copy,
}  # fmt: skip
"""Core ATen elementwise operators."""
