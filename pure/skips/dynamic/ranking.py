"""The largest scores of a router, of equal ones those that come first."""

from __future__ import annotations

from torch import Tensor

__all__ = ["largest"]


def largest(scores: Tensor, count: int, dim: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest scores along an axis, the largest first, and their positions.

    `Tensor.topk` may take any of equal scores, and those of padding are equal: which ones depends on the device and on
    `count`. A stable sort takes the lowest positions, everywhere.

    >>> import torch
    >>> largest(torch.zeros(4), 2, 0)[1]
    tensor([0, 1])
    """
    values, positions = scores.sort(dim=dim, descending=True, stable=True)
    return values.narrow(dim, 0, count), positions.narrow(dim, 0, count)
