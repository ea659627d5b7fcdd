"""A complex tensor as its real and its imaginary part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["REAL_DTYPES", "Pair", "imaginary", "pair_of", "real"]

REAL_DTYPES = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}
"""The dtype of a complex tensor's parts."""


@dataclass(frozen=True)
class Pair:
    """A complex tensor.

    Attributes:
        re: its real part.
        im: its imaginary part, of the same shape and dtype.
        is_real: whether the imaginary part is known to be zero.
    """

    re: Tensor
    im: Tensor
    is_real: bool = False


def pair_of(value: Any) -> Pair:
    """Return a pair, or a real tensor as one."""
    return value if isinstance(value, Pair) else Pair(value, torch.zeros_like(value), is_real=True)


def real(value: Any) -> Any:
    """Return the real part of a pair, a real tensor or a number."""
    return value.re if isinstance(value, Pair) else value.real if isinstance(value, complex) else value


def imaginary(value: Any) -> Any:
    """Return the imaginary part of a pair, a real tensor or a number."""
    if isinstance(value, Pair):
        return value.im
    if isinstance(value, Tensor):
        return torch.zeros_like(value)
    return value.imag if isinstance(value, complex) else 0
