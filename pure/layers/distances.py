"""Norms of vectors and distances between rows, whose derivatives of every order and kind are right.

PyTorch's `torch.cdist` has no forward mode, and `jacrev` of its gradient is silently wrong (torch 2.15.0). The gradient
of a third derivative of its norms ends in an error where forward mode comes under it ("modified by an inplace
operation"). So under two and more differentiating transforms the functions here compute the same from plain operations.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pure.errors import ArgumentError
from pure.layers.transform_levels import is_forward, is_nested

__all__ = ["cdist", "composed_cosine_similarity", "composed_norm_of", "vector_norm"]


def composed_norm_of(x: Tensor, p: float, axes: Any, keepdim: bool = False) -> Tensor:
    """Return (Σ|x|ᵖ)^(1/p) from plain operations; derivatives at 0 are 0."""
    size = x.abs()
    if p == math.inf:
        return size.amax(axes, keepdim=keepdim)
    if p == -math.inf:
        return size.amin(axes, keepdim=keepdim)
    if p == 0:
        return (x != 0).to(size.dtype).sum(axes, keepdim=keepdim)
    if p == 1:
        return size.sum(axes, keepdim=keepdim)
    if p == 2:
        total = (size if x.is_complex() else x).square().sum(axes, keepdim=keepdim)
    else:  # a power of 0 has no derivative; the inner choice keeps NaN out of the outer one's
        present = size > 0
        total = torch.where(present, torch.where(present, size, 1) ** p, 0).sum(axes, keepdim=keepdim)
    apart = total > 0
    safe = torch.where(apart, total, 1)
    return torch.where(apart, safe.sqrt() if p == 2 else safe ** (1 / p), 0)


def composed_cosine_similarity(a: Tensor, b: Tensor, axis: int = 1, eps: float = 1e-8) -> Tensor:
    """Return what `F.cosine_similarity` does from plain operations."""
    lengths = (composed_norm_of(x, 2, axis, keepdim=True).clamp(min=eps) for x in (a, b))
    return ((a / next(lengths)) * (b / next(lengths))).sum(axis)


def vector_norm(x: Tensor, axes: Any, *, keepdim: bool = False) -> Tensor:
    """Return the Euclidean norm over axes, as `torch.linalg.vector_norm` does."""
    if is_nested(x):
        return composed_norm_of(x, 2, axes, keepdim)
    return torch.linalg.vector_norm(x, 2, axes, keepdim)


def cdist(a: Tensor, b: Tensor, p: float = 2.0) -> Tensor:
    """Return the p-norm distances between the rows of `a` (…, n, d) and those of `b` (…, m, d): (…, n, m).

    Values and gradients are those of `torch.cdist`. Under forward mode and in second and higher derivatives, where
    PyTorch has no rule or silently a wrong one, they come from plain operations, which takes the memory of n·m·d
    elements. Between equal rows all derivatives are 0, also of the square: for a kernel of squared distances that is
    differentiated twice where rows coincide, write `(a[:, None] - b).square().sum(-1)`.

    Args:
        a: one set of rows.
        b: the other.
        p: of the norm, 0 to infinity.

    Raises:
        ArgumentError: what is given are no two tensors of rows of one length, or p is negative.

    Example:
        >>> kernel = lambda a, b: torch.exp(-cdist(a, b).square()).sum()
        >>> a, b = torch.tensor([[1.0]], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        >>> torch.func.jacrev(torch.func.grad(kernel), 1)(a, b).item() == -torch.func.hessian(kernel)(a, b).item()
        True
    """
    if not (isinstance(a, Tensor) and isinstance(b, Tensor) and min(a.dim(), b.dim()) >= 2):
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in (a, b)]
        raise ArgumentError(f"cdist of {shapes[0]} and {shapes[1]}: expected rows, (…, n, d) and (…, m, d)")
    if a.shape[-1] != b.shape[-1] or p < 0:
        raise ArgumentError(f"cdist of {tuple(a.shape)} and {tuple(b.shape)}, p={p}: expected one d, and p ≥ 0")
    if not is_forward() and not is_nested(a, b):
        return torch.cdist(a, b, p=p)
    return composed_norm_of(a.unsqueeze(-2) - b.unsqueeze(-3), p, -1)
