"""Which calls of a jitted function are of one kind: the same structure, dtypes, shapes and plain values."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Any

import torch
from torch import Tensor

from pure.tree import tree_flatten
from pure.tree.plain import is_wrapper

__all__ = ["ambient", "kind", "walk"]

_strange = torch._C._functorch.is_functorch_wrapped_tensor


def walk(tree: Any, place: torch.device, baked: Collection[int], tensors: list[Tensor], key: list[Any]) -> None:
    """Collect a pytree's tensors in tree order, and all that a compilation depends on.

    Args:
        tree: the arguments.
        place: where the compiled function runs.
        baked: identities of the tensors that are compiled in.
        tensors: the tensors are appended to it.
        key: what two calls of one kind have in common is appended to it.
    """
    container = type(tree)
    if container is Tensor:
        tensors.append(tree)
        if tree.requires_grad or baked or tree.device != place or _strange(tree) or tree.layout is not torch.strided:
            key.append(kind(tree, id(tree) in baked))
        else:
            key.append(tree.dtype)
            key.append(tree.shape)
    elif container is dict:
        key.append(dict)
        key.append(tuple(tree))
        for value in tree.values():
            walk(value, place, baked, tensors, key)
    elif container is tuple or container is list:
        key.append(container)
        key.append(len(tree))
        for value in tree:
            walk(value, place, baked, tensors, key)
    else:
        leaves, spec = tree_flatten(tree)
        key.append(spec)
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                tensors.append(leaf)
            key.append(kind(leaf, id(leaf) in baked))


def kind(leaf: Any, baked: bool) -> Hashable:
    """Return what a leaf's compilation depends on."""
    if not isinstance(leaf, Tensor):
        return type(leaf), leaf.hex() if type(leaf) is float else leaf  # −0.0 equals 0.0, and nan not even itself
    if is_wrapper(leaf):
        return type(leaf), leaf.dtype, leaf.shape
    wants_grad = leaf.requires_grad and torch.is_grad_enabled()
    if baked:
        return id(leaf), leaf._version, leaf.data_ptr(), wants_grad
    return leaf.dtype, leaf.shape, leaf.device, leaf.layout, _strange(leaf), wants_grad


def ambient(device: str) -> Hashable:
    """Return what a compilation depends on beside the arguments."""
    kind = device.partition(":")[0]
    cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return torch.get_default_dtype(), cast
