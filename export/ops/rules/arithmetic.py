"""Elementwise operators from simpler ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

aten: Any = torch.ops.aten
prims: Any = torch.ops.prims


def _fmax(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The larger; a NaN loses."""
    return torch.where(x.isnan(), y, torch.where(y.isnan(), x, torch.maximum(x, y)))


def _fmin(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The smaller; a NaN loses."""
    return torch.where(x.isnan(), y, torch.where(y.isnan(), x, torch.minimum(x, y)))


def _signbit(x: torch.Tensor) -> torch.Tensor:
    """Tell whether the sign is minus, that of a zero by its reciprocal; a NaN counts as positive."""
    if not x.is_floating_point():
        return x < 0
    return (x < 0) | ((x == 0) & (x.reciprocal() < 0))


def _copysign(x: torch.Tensor, y: Any) -> torch.Tensor:
    """|x| with the sign of y."""
    dtype = torch.result_type(x, y)
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    other = y if isinstance(y, torch.Tensor) else torch.full_like(x, y, dtype=dtype)
    size = x.to(dtype).abs()
    return torch.where(_signbit(other), -size, size)


def _round_decimals(x: torch.Tensor, *, decimals: int) -> torch.Tensor:
    """Round to so many digits behind the point, or before it."""
    if decimals >= 0:
        return (x * 10.0**decimals).round() / 10.0**decimals
    return (x / 10.0**-decimals).round() * 10.0**-decimals


_ERFC = (
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
    """1 - erf(x), by Chebyshev's fit of its logarithm where that is small (relative error 1.2e-7)."""
    size = x.abs()
    step = 1 / (1 + 0.5 * size)
    fit = torch.zeros_like(x)
    for factor in reversed(_ERFC):
        fit = factor + step * fit
    tail = step * torch.exp(-size * size - 1.26551223 + step * fit)
    return torch.where(size < 1, 1 - x.erf(), torch.where(x > 0, tail, 2 - tail))


def _shrink_backward(grad: torch.Tensor, x: torch.Tensor, threshold: float) -> torch.Tensor:
    """Nothing inside the threshold, everything outside."""
    return torch.where((x >= -threshold) & (x <= threshold), torch.zeros_like(grad), grad)


def _glu_jvp(result: torch.Tensor, x: torch.Tensor, tangent: torch.Tensor, dim: int) -> torch.Tensor:
    """The forward derivative of a·sigmoid(b)."""
    gate = x.chunk(2, dim)[1].sigmoid()
    by_value, by_gate = tangent.chunk(2, dim)
    return by_value * gate + result * (1 - gate) * by_gate


def _zeros_of(x: torch.Tensor, other: torch.Tensor, *, self_num_batch_dims: int = 0) -> torch.Tensor:
    """Zeros of the other's shape, behind the batch axes of the first."""
    return x.new_zeros([*x.shape[:self_num_batch_dims], *other.shape])


def _unchecked(*_: Any, **__: Any) -> None:
    """A check of a factorisation's outcome; the factorisation itself is refused later, with its name."""


RULES: dict[Any, Callable[..., Any]] = {
    aten.fmax.default: _fmax,
    aten.fmin.default: _fmin,
    aten.signbit.default: _signbit,
    aten.copysign.Tensor: _copysign,
    aten.copysign.Scalar: _copysign,
    aten.round.decimals: _round_decimals,
    aten.erfc.default: _erfc,
    aten.special_erfc.default: _erfc,
    aten.hardshrink_backward.default: _shrink_backward,
    aten.softshrink_backward.default: _shrink_backward,
    aten.glu_jvp.default: _glu_jvp,
    aten._new_zeros_with_same_feature_meta.default: _zeros_of,
    aten._linalg_check_errors.default: _unchecked,
}
"""Elementwise operators."""
