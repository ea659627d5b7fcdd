"""Tensors times a power of two, and norms as logarithms, so that neither depth nor squares overflow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LOG10_2", "Scaled", "log10", "times_power"]

LOG10_2 = math.log10(2.0)
RESCALE_EXPONENT = 32
"""A cotangent is rescaled once its norm leaves 2^±32."""


@dataclass(frozen=True, eq=False)
class Scaled:
    """Tensors times 2^exponent: a gradient of 1e-3000 has a place here, and scaling by powers of 2 rounds nothing.

    Attributes:
        parts: the tensors, one for each floating-point leaf of a stream.
        exponent: of the power of two in front of them.

    Example:
        >>> tiny = Scaled([torch.tensor([3e-30, 4e-30], dtype=torch.float64)], -10_000).rescaled()
        >>> round(tiny.log10_norm(), 6)
        -3039.600987
    """

    parts: Sequence[Tensor]
    exponent: int = 0

    def rescaled(self) -> Scaled:
        """Return the same value with parts whose norm is near 1; zeros and what is not finite stay as they are."""
        norm = _norm(self.parts)
        if norm == 0 or not math.isfinite(norm):
            return self
        shift = math.frexp(norm)[1]
        if abs(shift) <= RESCALE_EXPONENT:
            return self
        return Scaled([times_power(part, -shift) for part in self.parts], self.exponent + shift)

    def log10_norm(self) -> float:
        """Return log10 of the Euclidean norm; −inf for zero."""
        return log10(_norm(self.parts)) + self.exponent * LOG10_2

    def log10_sample_norms(self) -> Tensor:
        """Return log10 of each sample's norm, float64: axis 0 of every part counts as the batch."""
        squares = sum(
            torch.linalg.vector_norm(part.reshape(part.shape[0], -1), dim=1, dtype=torch.float64).square()
            for part in self.parts
        )
        return torch.as_tensor(squares).log10() / 2 + self.exponent * LOG10_2


def log10(value: float) -> float:
    """Return log10 of a value that may be 0 or not finite.

    >>> log10(0.0), log10(100.0)
    (-inf, 2.0)
    """
    return math.log10(value) if value > 0 else -math.inf if value == 0 else math.nan


def times_power(values: Tensor, exponents: Tensor | int) -> Tensor:
    """Return values times 2^exponents, in two halves, so that each factor is an ordinary number; far below, zeros.

    Args:
        values: (rows, …), or of any shape for one exponent.
        exponents: (rows,), whole numbers in float64; or one for all.

    >>> times_power(torch.ones(2, 1, dtype=torch.float64), torch.tensor([-1.0, 3.0])).flatten().tolist()
    [0.5, 8.0]
    """
    if isinstance(exponents, int):
        half = exponents // 2
        return values * 2.0**half * 2.0 ** (exponents - half)
    rows = exponents.reshape(-1, *[1] * (values.ndim - 1))
    halves = torch.div(rows, 2, rounding_mode="floor")
    return values * torch.exp2(halves).to(values.dtype) * torch.exp2(rows - halves).to(values.dtype)


def _norm(parts: Sequence[Tensor]) -> float:
    norms = [float(torch.linalg.vector_norm(part, dtype=torch.float64)) for part in parts]
    return norms[0] if len(norms) == 1 else math.hypot(*norms)
