"""Exponentials, logarithms, trigonometry and error functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import Builder, Lowering, node_dtype
from export.ops.arithmetic import unary
from export.ops.shared.elementary import FORMS, elementary, expm1_of, log1p_of

__all__ = ["DECOMPOSITIONS", "LOWERINGS"]

aten: Any = torch.ops.aten


def elementary_function(kind: str) -> Lowering:
    """Lower to the ONNX operator `kind`, or for CUDA to other operators."""

    def rule(g: Builder, node: Node, x: Any) -> ir.Value:
        return elementary(g, kind, g.tensor(x, node_dtype(node)))

    return rule


def expm1(g: Builder, node: Node, x: Any) -> ir.Value:
    """eˣ-1."""
    return expm1_of(g, g.tensor(x, node_dtype(node)), node_dtype(node))


def log1p(g: Builder, node: Node, x: Any) -> ir.Value:
    """log(1+x)."""
    return log1p_of(g, g.tensor(x, node_dtype(node)), node_dtype(node))


def log_base(base: float) -> Lowering:
    """Lower a logarithm to a base."""

    def rule(g: Builder, node: Node, x: Any) -> ir.Value:
        dtype = node_dtype(node)
        return g.op("Mul", g.op("Log", g.tensor(x, dtype)), g.constant(1 / math.log(base), dtype))

    return rule


def exp2(g: Builder, node: Node, x: Any) -> ir.Value:
    """2ˣ."""
    dtype = node_dtype(node)
    return g.op("Pow", g.constant(2.0, dtype), g.tensor(x, dtype))


def atan2(g: Builder, node: Node, y: Any, x: Any) -> ir.Value:
    """Return the angle of (x, y), with signed zeros and infinities as in C."""
    dtype = node_dtype(node)
    up, right, zero = g.tensor(y, dtype), g.tensor(x, dtype), g.constant(0.0, dtype)
    far = [g.op("IsInf", value, dtype=torch.bool) for value in (up, right)]
    nil = [g.op("Equal", value, zero, dtype=torch.bool) for value in (up, right)]
    quotient = g.op("Div", up, right)
    signs = g.op("Div", g.op("Sign", up), g.op("Sign", right))
    angle = elementary(g, "Atan", g.op("Where", g.op("And", *far), signs, quotient, dtype=dtype))
    angle = g.op("Where", g.op("And", *nil), up, angle, dtype=dtype)
    turn = g.op("Where", _minus(g, up), g.constant(-math.pi, dtype), g.constant(math.pi, dtype), dtype=dtype)
    return g.op("Where", _minus(g, right), g.op("Add", angle, turn), angle, dtype=dtype)


def _minus(g: Builder, x: ir.Value) -> ir.Value:
    """Tell where the sign bit is set; a zero's shows in its reciprocal."""
    zero = g.constant(0.0, g.dtypes[x])
    below = g.op("Less", x, zero, dtype=torch.bool)
    inverse = g.op("Less", g.op("Reciprocal", x), zero, dtype=torch.bool)
    return g.op("Or", below, g.op("And", g.op("Equal", x, zero, dtype=torch.bool), inverse))


_ERFC_COEFFICIENTS = (
    1.00002368,
    0.37409196,
    0.09678418,
    -0.18628806,
    0.27886807,
    -1.13520398,
    1.48851587,
    -0.82215223,
    0.17087277,
)


def _erfc(x: torch.Tensor) -> torch.Tensor:
    """1 - erf(x); where small by a Chebyshev fit of its logarithm (relative error 1.2e-7)."""
    size = x.abs()
    step = 1 / (1 + 0.5 * size)
    fit = torch.zeros_like(x)
    for factor in reversed(_ERFC_COEFFICIENTS):
        fit = factor + step * fit
    tail = step * torch.exp(-size * size - 1.26551223 + step * fit)
    return torch.where(size < 1, 1 - x.erf(), torch.where(x > 0, tail, 2 - tail))


LOWERINGS: dict[Any, Lowering] = {
    aten.exp.default: unary("Exp"), aten.exp2.default: exp2, aten.expm1.default: expm1,
    aten.log.default: unary("Log"), aten.log2.default: log_base(2), aten.log10.default: log_base(10),
    aten.log1p.default: log1p, aten.erf.default: unary("Erf"),
    aten.sin.default: unary("Sin"), aten.cos.default: unary("Cos"), aten.atan2.default: atan2,
    **{getattr(aten, kind.lower()).default: elementary_function(kind) for kind in FORMS},
}  # fmt: skip

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {aten.erfc.default: _erfc, aten.special_erfc.default: _erfc}
