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
    if container is dict:
        key.append(dict)
        key.append(tuple(tree))
        children = tree.values()
    elif container is tuple or container is list:
        key.append(container)
        key.append(len(tree))
        children = tree
    else:
        leaves, spec = tree_flatten(tree)
        key.append(spec)
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                tensors.append(leaf)
            key.append(kind(leaf, id(leaf) in baked))
        return
    for child in children:
        if type(child) is not Tensor:
            walk(child, place, baked, tensors, key)
            continue
        tensors.append(child)
        if child.requires_grad or baked or child.device != place or child.layout is not torch.strided:
            key.append(kind(child, id(child) in baked))
        else:
            key.append(child.dtype)
            key.append(child.shape)


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
