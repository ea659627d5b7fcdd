"""Distances of two tensors, and of all pairs of rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from export.ops.shared.eager_derivatives import note_distances
from pure.layers.distances import composed_norm_of
from pure.layers.transform_levels import is_nested

__all__ = ["COMPOSITES", "DECOMPOSITIONS"]

aten: Any = torch.ops.aten


def _cdist(a: torch.Tensor, b: torch.Tensor, p: float = 2.0, compute_mode: int | None = None) -> torch.Tensor:
    """Return the distances of all pairs of rows."""
    return torch.linalg.vector_norm(a.unsqueeze(-2) - b.unsqueeze(-3), p, -1)


def _cdist_backward(
    grad: torch.Tensor, a: torch.Tensor, b: torch.Tensor, p: float, distance: torch.Tensor
) -> torch.Tensor:
    """Return the gradient of the distances w.r.t. `a`; zero between equal rows."""
    gap = a.unsqueeze(-2) - b.unsqueeze(-3)
    if p == math.inf:
        return NotImplemented
    if p == 1:
        share = gap.sign()
    elif p == 0:
        share = torch.zeros_like(gap)
    else:
        far = distance.unsqueeze(-1)
        safe = torch.where(far > 0, far, torch.ones_like(far))
        size = gap.abs()
        length = gap if p == 2 else gap.sign() * torch.where(size > 0, size, torch.ones_like(size)) ** (p - 1)
        share = torch.where(far > 0, length / safe ** (p - 1), torch.zeros_like(gap))
    return (grad.unsqueeze(-1) * share).sum(-2)


def _dist(a: torch.Tensor, b: torch.Tensor, p: float = 2.0) -> torch.Tensor:
    """Return the norm of the difference."""
    return torch.linalg.vector_norm(a - b, p)


def _cdist_of_any_order(
    a: torch.Tensor, b: torch.Tensor, p: float = 2.0, compute_mode: int | None = None
) -> torch.Tensor:
    """Compute the distances from differences; a norm's kernel has no gradient of a forward mode of its gradient."""
    note_distances(a, b)
    if is_nested(a, b):
        return composed_norm_of(a.unsqueeze(-2) - b.unsqueeze(-3), p, -1)
    return _cdist(a, b, p)


COMPOSITES: dict[Any, Callable[..., Any]] = {aten.cdist.default: _cdist_of_any_order, aten.dist.default: _dist}
"""A norm of differences has derivatives of every order; those of PyTorch's own distances are wrong from the second."""

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten._cdist_forward.default: _cdist,
    aten._cdist_backward.default: _cdist_backward,
}
