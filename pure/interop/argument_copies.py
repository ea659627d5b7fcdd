"""Copies of what a module is given, so that a forward which writes into a container or a cache changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from pure import tree
from pure.interop.module_contents import reachable

__all__ = ["own", "tensors_of"]

_PLAIN = (Tensor, int, float, complex, str, bytes, type, nn.Module, torch.dtype, torch.device, torch.Generator)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, _PLAIN) or callable(value)


def _copied(value: Any) -> Any:
    """Return a copy of an object with copies of its tensors, as of a key-value cache; itself where it has no copy."""
    if _is_plain(value):
        return value
    memo: dict[int, Any] = {id(held): held.clone() for held in reachable(value) if isinstance(held, Tensor)}
    try:
        return copy.deepcopy(value, memo)
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        return value


def own(given: Any) -> Any:
    """Return arguments in containers of their own; objects that are no pytree are copied, tensors are not."""
    items = given.values() if isinstance(given, dict) else given
    return given if all(map(_is_plain, items)) else tree.tree_map(_copied, given)


def tensors_of(*given: Any) -> list[Tensor]:
    """Return the tensors among arguments."""
    return [leaf for leaf in tree.leaves(given) if isinstance(leaf, Tensor)]
