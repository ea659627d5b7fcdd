"""Trees whose tensors autograd tracks as new leaves."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pure import tree

__all__ = ["tracked"]


def tracked(values: Any, leaves: list[Tensor] | None = None) -> Any:
    """Return a tree with its floating-point tensors detached and requiring gradients, and all else as it is.

    Args:
        values: any tree.
        leaves: where to append the new tensors, in tree order; None for nowhere.

    Example:
        >>> import torch
        >>> leaves = []
        >>> tracked({"x": torch.ones(1), "n": 2}, leaves)["x"] is leaves[0], leaves[0].requires_grad
        (True, True)
    """

    def leaf(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        new = value.detach().requires_grad_()
        if leaves is not None:
            leaves.append(new)
        return new

    if type(values) is dict:  # the usual case, faster than tree_map
        return {key: tracked(child, leaves) for key, child in values.items()}
    return leaf(values) if isinstance(values, Tensor) else tree.tree_map(leaf, values)
