"""Plain tensors of leaves that may be of another tensor class, such as PyTorch's DTensor."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch._subclasses import FakeTensor

from pure.errors import ArgumentError

__all__ = ["is_wrapper", "plain_tensor"]


def is_wrapper(leaf: object) -> bool:
    """Return whether a tensor's class computes by its own rules, so that its memory may hold no values."""
    return isinstance(leaf, Tensor) and type(leaf).__torch_dispatch__ is not Tensor.__torch_dispatch__


def plain_tensor(leaf: Any, what: str) -> Any:
    """Return a leaf as it is, or all of a DTensor, for which all of its ranks call this together.

    Args:
        leaf: a leaf of a tree.
        what: where it stands, for the message.

    Raises:
        ArgumentError: a tensor of another class.
    """
    if not is_wrapper(leaf) or isinstance(leaf, FakeTensor):
        return leaf
    if hasattr(leaf, "full_tensor"):
        return leaf.full_tensor()
    raise ArgumentError(f"{what} is {type(leaf).__name__}: expected a plain tensor, and it has no full_tensor() to ask")
