"""Arithmetic of pairs: what each operator on complex tensors computes from their parts."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from export.ops.complex_pairs.pair import Pair, imaginary, pair_of, real

__all__ = ["PAIRS"]


def _bilinear(product: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Make a rule of a product, such as a matrix product, that is linear in both of its arguments."""

    def rule(a: Any, b: Any) -> Pair:
        for x, other, swapped in ((a, b, False), (b, a, True)):
            if isinstance(x, Tensor) or (isinstance(x, (int, float)) and not isinstance(x, complex)):
                parts = (real(other), imaginary(other))
                return Pair(*(product(part, x) if swapped else product(x, part) for part in parts))
        left, right = (real(a), imaginary(a)), (real(b), imaginary(b))
        return Pair(
            product(left[0], right[0]) - product(left[1], right[1]),
            product(left[0], right[1]) + product(left[1], right[0]),
        )

    return rule


_product = _bilinear(operator.mul)


def _conjugate(z: Any) -> Any:
    if isinstance(z, Pair):
        return Pair(z.re, -z.im, z.is_real)
    return z.conjugate() if isinstance(z, complex) else z


def _quotient(a: Any, b: Any, *, rounding_mode: str | None = None) -> Pair:
    """Divide; b is scaled by its larger part, so that its square neither overflows nor vanishes."""
    if not isinstance(b, (Pair, complex)):
        return Pair(a.re / b, a.im / b, a.is_real)
    if isinstance(b, complex):
        return _product(a, 1 / b)
    scale = torch.maximum(b.re.abs(), b.im.abs())
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    near = Pair(b.re / scale, b.im / scale)
    square = (near.re * near.re + near.im * near.im) * scale
    above = _product(a, _conjugate(near))
    return Pair(above.re / square, above.im / square)


def _modulus(z: Pair) -> Tensor:
    return z.re.abs() if z.is_real else torch.hypot(z.re, z.im)


def _angle(z: Pair) -> Tensor:
    return torch.atan2(z.im, z.re)


def _sign(z: Pair) -> Pair:
    """z / |z|, and 0 at 0."""
    size = _modulus(z)
    safe = torch.where(size == 0, torch.ones_like(size), size)
    return Pair(z.re / safe, z.im / safe)


def _polar(size: Tensor, angle: Tensor) -> Pair:
    return Pair(size * angle.cos(), size * angle.sin())


def _exponential(z: Pair) -> Pair:
    return _polar(z.re.exp(), z.im)


def _logarithm(z: Pair) -> Pair:
    return Pair(_modulus(z).log(), _angle(z))


def _square_root(z: Pair) -> Pair:
    """The root with a real part that is not negative; each part by the form that does not cancel."""
    size = _modulus(z)
    larger = ((size + z.re.abs()) / 2).sqrt()
    smaller = z.im.abs() / (2 * torch.where(larger == 0, torch.ones_like(larger), larger))
    below = z.re < 0
    sign = torch.where(z.im < 0, -torch.ones_like(z.im), torch.ones_like(z.im))
    return Pair(torch.where(below, smaller, larger), sign * torch.where(below, larger, smaller))


def _power(a: Any, b: Any) -> Pair:
    """aᵇ; small whole powers by products."""
    if isinstance(b, (int, float)) and float(b).is_integer() and 0 < abs(b) <= 16:
        result = a
        for bit in bin(abs(int(b)))[3:]:
            result = _product(result, result)
            result = _product(result, a) if bit == "1" else result
        return result if b > 0 else _quotient(1.0, result)
    if isinstance(b, (int, float)) and b == 0:
        return pair_of(torch.ones_like(a.re))
    if isinstance(b, (int, float)) and b == 0.5:
        return _square_root(a)
    if isinstance(a, (int, float, complex)):
        base = torch.as_tensor(a, dtype=torch.complex128).log().item()
        return _exponential(_product(b, base))
    zero = (a.re == 0) & (a.im == 0) if isinstance(a, Pair) else a == 0
    found = _exponential(_product(b, _logarithm(pair_of(a))))
    none = torch.zeros_like(found.re)
    return Pair(torch.where(zero, none, found.re), torch.where(zero, none, found.im))


def _sine(z: Pair) -> Pair:
    return Pair(z.re.sin() * z.im.cosh(), z.re.cos() * z.im.sinh())


def _cosine(z: Pair) -> Pair:
    return Pair(z.re.cos() * z.im.cosh(), -(z.re.sin() * z.im.sinh()))


def _hyperbolic_sine(z: Pair) -> Pair:
    return Pair(z.re.sinh() * z.im.cos(), z.re.cosh() * z.im.sin())


def _hyperbolic_cosine(z: Pair) -> Pair:
    return Pair(z.re.cosh() * z.im.cos(), z.re.sinh() * z.im.sin())


def _hyperbolic_tangent(z: Pair) -> Pair:
    """tanh by q = exp(−2|x|), which does not overflow; 1 − q by expm1 and (1 − q)² + 4 q cos² y do not cancel."""
    twice = -2 * z.re.abs()
    q, rest = twice.exp(), -torch.expm1(twice)
    cosine = z.im.cos()
    below = rest * rest + 4 * q * cosine * cosine
    return Pair(z.re.sign() * rest * (1 + q) / below, 4 * q * cosine * z.im.sin() / below)


def _sigmoid(z: Pair) -> Pair:
    half = _hyperbolic_tangent(Pair(z.re / 2, z.im / 2))
    return Pair(half.re / 2 + 0.5, half.im / 2)


def _reciprocal(z: Pair) -> Pair:
    return _quotient(1.0, z)


def _sum(a: Any, b: Any, *, alpha: Any = 1) -> Pair:
    return _added(a, b if alpha == 1 else _product(b, alpha))


def _added(a: Any, b: Any) -> Pair:
    """Add; the parts broadcast, and a real summand leaves the imaginary part as it is."""
    re = real(a) + real(b)
    im = _im(a, b)
    return Pair(re, im.expand_as(re) if isinstance(im, Tensor) else torch.full_like(re, im))


def _im(a: Any, b: Any) -> Any:
    """Return the sum of imaginary parts, one of which may be absent."""
    parts = [imaginary(x) for x in (a, b) if isinstance(x, (Pair, complex))]
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _difference(a: Any, b: Any, *, alpha: Any = 1) -> Pair:
    return _added(a, _product(b, -alpha) if isinstance(b, Pair) else -alpha * b)


def _reversed_difference(a: Any, b: Any, alpha: Any = 1) -> Pair:
    return _difference(b, a, alpha=alpha)


def _plus_product(product: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Make a rule of beta · c + alpha · product(a, b)."""

    def rule(c: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
        return _sum(_product(c, beta) if beta != 1 else c, product(a, b), alpha=alpha)

    return rule


def _fused(sign: int) -> Callable[..., Any]:
    def rule(c: Any, a: Any, b: Any, *, value: Any = 1) -> Any:
        return _sum(c, _product(a, b) if sign > 0 else _quotient(a, b), alpha=value)

    return rule


def _equal(a: Any, b: Any) -> Tensor:
    found: Tensor = (real(a) == real(b)) & (imaginary(a) == imaginary(b))
    return found


def _any_part(test: Callable[[Tensor], Tensor]) -> Callable[[Pair], Tensor]:
    return lambda z: test(z.re) | test(z.im)


def _fused_angle(grad: Tensor, z: Pair) -> Pair:
    """The gradient of the angle, (−y, x) / |z|²."""
    square = z.re * z.re + z.im * z.im
    safe = torch.where(square == 0, torch.ones_like(square), square)
    return Pair(-grad * z.im / safe, grad * z.re / safe)


_mm, _bmm, _matmul = _bilinear(torch.mm), _bilinear(torch.bmm), _bilinear(torch.matmul)
_mv, _dot = _bilinear(torch.mv), _bilinear(torch.dot)

PAIRS: dict[str, Callable[..., Any]] = {
    "mul": _product, "div": _quotient, "true_divide": _quotient, "add": _sum, "sub": _difference,
    "rsub": _reversed_difference, "mm": _mm, "bmm": _bmm, "matmul": _matmul, "mv": _mv, "dot": _dot,
    "vdot": lambda a, b: _dot(_conjugate(a), b), "addmm": _plus_product(_mm), "baddbmm": _plus_product(_bmm),
    "addmv": _plus_product(_mv), "addcmul": _fused(1), "addcdiv": _fused(-1),
    "_conj": _conjugate, "_conj_physical": _conjugate, "conj_physical": _conjugate, "conj": _conjugate,
    "resolve_conj": lambda z: z, "resolve_neg": lambda z: z, "positive": lambda z: z,
    "abs": _modulus, "angle": _angle, "sgn": _sign, "exp": _exponential, "log": _logarithm, "sqrt": _square_root,
    "pow": _power, "square": lambda z: _product(z, z), "reciprocal": _reciprocal, "sin": _sine, "cos": _cosine,
    "sinh": _hyperbolic_sine, "cosh": _hyperbolic_cosine, "tanh": _hyperbolic_tangent, "sigmoid": _sigmoid,
    "rsqrt": lambda z: _reciprocal(_square_root(z)), "polar": _polar, "complex": Pair,
    "view_as_real": lambda z: torch.stack([z.re, z.im], -1),
    "view_as_complex": lambda x: Pair(x.select(-1, 0), x.select(-1, 1)),
    "real": real, "imag": imaginary, "eq": _equal, "ne": lambda a, b: ~_equal(a, b),
    "isnan": _any_part(torch.isnan), "isinf": _any_part(torch.isinf),
    "isfinite": lambda z: torch.isfinite(z.re) & torch.isfinite(z.im), "angle_backward": _fused_angle,
}  # fmt: skip
