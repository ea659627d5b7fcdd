"""Stacks of trees: one tree whose leaves have a leading axis, an ensemble for `torch.func.vmap`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pure.errors import ArgumentError, TreeError
from pure.tree.pytree import Leaf, Tree, check, flatten, leaves, tree_flatten, tree_map, tree_unflatten

__all__ = ["stack", "stack_drawn", "unstack"]


def stack(trees: Sequence[Tree], dim: int = 0) -> Tree:
    """Stack trees of one structure along a new axis: an ensemble for `torch.func.vmap`.

    Raises:
        TreeError: the trees differ in names or shapes; all differences are listed.
        ArgumentError: `trees` is empty.

    Example:
        >>> stack([{"w": torch.zeros(2)}, {"w": torch.ones(2)}])["w"].shape
        torch.Size([2, 2])
    """
    if not trees:
        raise ArgumentError("stack of no trees: give at least one tree")
    for position, tree in enumerate(trees[1:], start=1):
        check(tree, trees[0], what=f"trees[{position}]")
    return _stack([dict(tree) if isinstance(tree, Mapping) else tree for tree in trees], dim)


def stack_drawn(draw: Callable[[int], Tree], count: int) -> Tree:
    """Return `stack([draw(0), …, draw(count - 1)])`, holding one extra tree at a time.

    Raises:
        TreeError: the trees differ in names or shapes; all differences are listed.
        ArgumentError: `count` is 0.

    Example:
        >>> stack_drawn(lambda position: {"w": torch.full((2,), float(position))}, 3)["w"][:, 0]
        tensor([0., 1., 2.])
    """
    first = draw(0) if count else None
    if not count or not all(map(_is_plain, leaves(first))):
        return stack([first, *map(draw, range(1, count))] if count else [])
    whole = tree_map(lambda leaf: leaf.new_empty((count, *leaf.shape)), first)
    rows = flatten(whole)
    first = _placed(first, rows, 0)
    for position in range(1, count):
        refused = _placed(draw(position), rows, position)
        if refused is not None:
            before = [tree_map(lambda leaf, at=at: leaf[at], whole) for at in range(position)]
            return stack([*before, refused, *map(draw, range(position + 1, count))])
    return whole


def _placed(tree: Tree, rows: Mapping[str, Tensor], position: int) -> Tree | None:
    """Copy a tree into its rows, or return it if stacking it would do anything else."""
    given = flatten(tree)
    if given.keys() != rows.keys():
        return tree
    for name, leaf in given.items():
        row = rows[name]
        if not _is_plain(leaf) or (leaf.dtype, leaf.device, leaf.shape) != (row.dtype, row.device, row.shape[1:]):
            return tree
    for name, leaf in given.items():
        rows[name][position] = leaf
    return None


def _is_plain(leaf: Leaf) -> bool:
    """Return whether a leaf may be copied instead of stacked: no autograd, no transform."""
    return type(leaf) is Tensor and not leaf.requires_grad and not torch._C._functorch.is_functorch_wrapped_tensor(leaf)


def _stack(trees: Sequence[Tree], dim: int) -> Tree:
    first = trees[0]
    if isinstance(first, Mapping):
        return {key: _stack([tree[key] for tree in trees], dim) for key in first}
    return tree_map(lambda *parts: torch.stack(parts, dim), *trees)


def unstack(tree: Tree, dim: int = 0) -> list[Tree]:
    """Split a stacked tree into its parts, which are views; the inverse of `stack`.

    Raises:
        TreeError: the leaves disagree on the size of the axis, or there is none to take it from.
    """
    sizes = {leaf.shape[dim] if leaf.ndim else None for leaf in leaves(tree)}
    if len(sizes) != 1 or None in sizes:
        raise TreeError(f"unstack along axis {dim}: the leaves hold {sorted(map(str, sizes))} parts, expected one size")
    return _unbind(tree, dim)


def _unbind(node: Tree, dim: int) -> list[Tree]:
    """Return the parts of a tree whose leaves agree; plain dicts are split without a spec."""
    if isinstance(node, Tensor):
        return list(node.unbind(dim))
    if type(node) is dict:
        columns = {key: _unbind(child, dim) for key, child in node.items() if type(child) is not dict or child}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    flat, spec = tree_flatten(node)
    return [tree_unflatten(part, spec) for part in zip(*(leaf.unbind(dim) for leaf in flat), strict=True)]
