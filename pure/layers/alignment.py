"""Reshapes and casts that align a tensor with another of more axes or a wider dtype, also under `torch.autocast`."""

from __future__ import annotations

import torch
from torch import Tensor

from pure.leaf import autocasts

__all__ = ["align", "along", "fits", "narrow", "widen"]


def align(value: Tensor, x: Tensor) -> Tensor:
    """Return `value` with trailing axes of size 1, so that it broadcasts against the sample.

    Args:
        value: of the first axes of `x`.
        x: what it is to be multiplied with.

    Example:
        >>> align(torch.ones(2), torch.ones(2, 3, 4)).shape
        torch.Size([2, 1, 1])
    """
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim))


def along(vector: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return `vector` in a shape that broadcasts along one axis of `x`.

    Args:
        vector: (x.shape[axis],).
        x: what it is to be combined with.
        axis: of `x`.

    Example:
        >>> along(torch.ones(3), torch.ones(2, 3, 4), 1).shape
        torch.Size([3, 1])
    """
    return vector.reshape(vector.shape + (1,) * (x.ndim - 1 - axis % x.ndim))


def widen(x: Tensor) -> Tensor:
    """Return `x` in its own dtype, or in float32 if that is narrower, for statistics.

    Example:
        >>> widen(torch.ones(1, dtype=torch.bfloat16)).dtype, widen(torch.ones(1, dtype=torch.float64)).dtype
        (torch.float32, torch.float64)
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def fits(leaf: Tensor, x: Tensor) -> bool:
    """Return whether a parameter can meet an input: it has its dtype, or `torch.autocast` sees to that.

    Example:
        >>> fits(torch.ones(1), torch.ones(1, dtype=torch.bfloat16))
        False
    """
    return leaf.dtype == x.dtype or autocasts(x)


def narrow(y: Tensor, x: Tensor) -> Tensor:
    """Return a norm's result in its input's dtype; under autocast on CUDA in its own, as PyTorch's modules do.

    Args:
        y: the result, at least in float32.
        x: the input.
    """
    return y if y.dtype == x.dtype or (x.device.type == "cuda" and autocasts(x)) else y.to(x.dtype)
