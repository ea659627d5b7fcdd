"""Elementary functions written with others: without cancellation, and for CUDA those that it has no kernel for.

Each form keeps the relative accuracy of its function near zeros, at large arguments and at the ends of its domain, and
gives its infinities and NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir
import torch

from export.graph.builder import Builder

__all__ = ["FORMS", "elementary", "expm1_of", "log1p_of"]

ATAN_NUMERATOR = (
    -8.750608600031904122785e-1,
    -1.615753718733365076637e1,
    -7.500855792314704667340e1,
    -1.228866684490136173410e2,
    -6.485021904942025371773e1,
)
ATAN_DENOMINATOR = (
    1.0,
    2.485846490142306297962e1,
    1.650270098316988542046e2,
    4.328810604912902668951e2,
    4.853903996359136964868e2,
    1.945506571482613964425e2,
)
"""Cephes, atan.c: atan x = x + x³ P(x²)/Q(x²) for |x| ≤ 0.66, with a relative error of at most 1.8e-16."""

ATAN_DIRECT, ATAN_MIDDLE = 0.66, math.tan(3 * math.pi / 8)
"""Arguments up to which the arc tangent is taken directly, and from π/4 on."""

SINH_FACTORS = tuple(1 / math.factorial(2 * k + 1) for k in reversed(range(9)))
"""Of sinh(x)/x in x²; what is left out is below 1e-17 of it for |x| ≤ 1."""


def elementary(g: Builder, kind: str, value: ir.Value) -> ir.Value:
    """Return the operator `kind` of a value; for CUDA its form, in float32 for 16-bit floats."""
    if g.target != "cuda" or kind not in FORMS:
        return g.op(kind, value)
    dtype = g.dtypes[value]
    wide = g.cast(value, dtype if dtype == torch.float64 else torch.float32)
    return g.cast(FORMS[kind](_Formula(g, g.dtypes[wide]), wide), dtype)


def expm1_of(g: Builder, value: ir.Value, dtype: torch.dtype) -> ir.Value:
    """Return eˣ-1 without cancellation: 2·tanh(x/2)/(1-tanh(x/2)) for |x| < 0.5."""
    half = g.op("Tanh", g.op("Mul", value, g.constant(0.5, dtype)))
    near = g.op("Div", g.op("Mul", half, g.constant(2.0, dtype)), g.op("Sub", g.constant(1.0, dtype), half))
    far = g.op("Sub", g.op("Exp", value), g.constant(1.0, dtype))
    small = g.op("Less", g.op("Abs", value), g.constant(0.5, dtype), dtype=torch.bool)
    return g.op("Where", small, near, far, dtype=dtype)


def log1p_of(g: Builder, value: ir.Value, dtype: torch.dtype) -> ir.Value:
    """Return log(1+x) without cancellation: x·log(u)/(u-1) with u = 1+x (Kahan)."""
    one = g.constant(1.0, dtype)
    u = g.op("Add", value, one)
    gap = g.op("Sub", u, one)
    plain = g.op("Log", u)
    tiny = g.op("Equal", gap, g.constant(0.0, dtype), dtype=torch.bool)
    infinite = g.op("IsInf", u, dtype=torch.bool)
    safe = g.op("Where", g.op("Or", tiny, infinite), one, gap, dtype=dtype)
    corrected = g.op("Where", infinite, plain, g.op("Mul", value, g.op("Div", plain, safe)), dtype=dtype)
    return g.op("Where", tiny, value, corrected, dtype=dtype)


class _Formula:
    """Nodes of one dtype, called as `formula("Add", x, 1)`; numbers become constants."""

    def __init__(self, g: Builder, dtype: torch.dtype) -> None:
        self.g, self.dtype = g, dtype
        self.large = torch.finfo(dtype).eps ** -0.5
        """From here on x² + 1 is x², to the last bit."""

    def __call__(self, kind: str, *values: ir.Value | float) -> ir.Value:
        return self.g.op(kind, *map(self._value, values))

    def _value(self, value: ir.Value | float) -> ir.Value:
        return value if isinstance(value, ir.Value) else self.g.constant(float(value), self.dtype)

    def less(self, x: ir.Value | float, y: ir.Value | float) -> ir.Value:
        return self.g.op("Less", self._value(x), self._value(y), dtype=torch.bool)

    def where(self, condition: ir.Value, x: ir.Value | float, y: ir.Value | float) -> ir.Value:
        return self.g.op("Where", condition, self._value(x), self._value(y), dtype=self.dtype)

    def polynomial(self, factors: Sequence[float], x: ir.Value) -> ir.Value:
        """Return the polynomial with these factors, that of the highest power first."""
        result = self("Add", self("Mul", x, factors[0]), factors[1])
        for factor in factors[2:]:
            result = self("Add", self("Mul", result, x), factor)
        return result

    def signed(self, x: ir.Value, size: ir.Value) -> ir.Value:
        """Return a size that is not negative with the sign of x; 0 for both zeros."""
        return self.where(self.less(x, 0), self("Neg", size), size)

    def halves(self, size: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return eˣ/2 and e⁻ˣ/2, as products, since eˣ overflows before eˣ/2 does."""
        root = self("Exp", self("Mul", size, 0.5))
        return self("Mul", self("Mul", root, 0.5), root), self("Div", self("Div", 0.5, root), root)

    def log1p(self, x: ir.Value) -> ir.Value:
        return log1p_of(self.g, x, self.dtype)


def _cosh(formula: _Formula, x: ir.Value) -> ir.Value:
    return formula("Add", *formula.halves(formula("Abs", x)))


def _sinh(formula: _Formula, x: ir.Value) -> ir.Value:
    """Return Taylor's polynomial for |x| < 1, where (eˣ - e⁻ˣ)/2 cancels."""
    size = formula("Abs", x)
    near = formula("Mul", x, formula.polynomial(SINH_FACTORS, formula("Mul", x, x)))
    far = formula.signed(x, formula("Sub", *formula.halves(size)))
    return formula.where(formula.less(size, 1), near, far)


def _tan(formula: _Formula, x: ir.Value) -> ir.Value:
    return formula("Div", formula("Sin", x), formula("Cos", x))


def _atan(formula: _Formula, x: ir.Value) -> ir.Value:
    """Return c + atan of a small number, where c is 0, π/4 or π/2 (Cephes, atan.c)."""
    size = formula("Abs", x)
    direct, middle = formula.less(size, ATAN_DIRECT), formula.less(size, ATAN_MIDDLE)
    shifted = formula("Div", formula("Sub", size, 1), formula("Add", size, 1))
    small = formula.where(direct, size, formula.where(middle, shifted, formula("Div", -1, size)))
    square = formula("Mul", small, small)
    ratio = formula("Div", *(formula.polynomial(part, square) for part in (ATAN_NUMERATOR, ATAN_DENOMINATOR)))
    factor = formula("Add", formula("Mul", square, ratio), 1)
    offset = formula.where(middle, math.pi / 4, math.pi / 2)
    far = formula.signed(x, formula("Add", formula("Mul", small, factor), offset))
    return formula.where(direct, formula("Mul", x, factor), far)


def _asin(formula: _Formula, x: ir.Value) -> ir.Value:
    """Return atan(x/√(1-x²))."""
    cosine = formula("Sqrt", formula("Mul", formula("Sub", 1, x), formula("Add", x, 1)))
    return _atan(formula, formula("Div", x, cosine))


def _acos(formula: _Formula, x: ir.Value) -> ir.Value:
    """Return 2·atan√((1-x)/(1+x))."""
    half = formula("Sqrt", formula("Div", formula("Sub", 1, x), formula("Add", x, 1)))
    return formula("Mul", _atan(formula, half), 2)


def _asinh(formula: _Formula, x: ir.Value) -> ir.Value:
    """Return log(1 + |x| + x²/(1+√(1+x²))) with the sign of x."""
    size = formula("Abs", x)
    square = formula("Mul", size, size)
    root = formula("Sqrt", formula("Add", square, 1))
    near = formula.log1p(formula("Add", size, formula("Div", square, formula("Add", root, 1))))
    return formula.signed(x, formula.where(formula.less(size, formula.large), near, _log_of_twice(formula, size)))


def _acosh(formula: _Formula, x: ir.Value) -> ir.Value:
    """Return log(1 + (x-1) + √(x-1)·√(x+1))."""
    beyond = formula("Sub", x, 1)
    root = formula("Mul", formula("Sqrt", beyond), formula("Sqrt", formula("Add", x, 1)))
    near = formula.log1p(formula("Add", beyond, root))
    return formula.where(formula.less(formula.large, x), _log_of_twice(formula, x), near)


def _atanh(formula: _Formula, x: ir.Value) -> ir.Value:
    """Return log(1 + 2|x|/(1-|x|))/2 with the sign of x."""
    size = formula("Abs", x)
    inner = formula("Div", formula("Mul", size, 2), formula("Sub", 1, size))
    return formula.signed(x, formula("Mul", formula.log1p(inner), 0.5))


def _log_of_twice(formula: _Formula, x: ir.Value) -> ir.Value:
    return formula("Add", formula("Log", x), math.log(2))


FORMS: dict[str, Callable[[_Formula, ir.Value], ir.Value]] = {
    "Cosh": _cosh,
    "Sinh": _sinh,
    "Tan": _tan,
    "Atan": _atan,
    "Asin": _asin,
    "Acos": _acos,
    "Asinh": _asinh,
    "Acosh": _acosh,
    "Atanh": _atanh,
}
"""The operators that CUDA has no kernel for in any dtype (`export.devices.cuda_kernels`)."""
