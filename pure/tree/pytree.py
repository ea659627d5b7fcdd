"""Parameter pytrees: nested plain dicts of tensors, and functions on them.

This is the only module that imports `torch.utils._pytree`; the rest of the library goes through these names.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from pure.errors import ArgumentError, TreeError, nearest

__all__ = [
    "Tree",
    "cast",
    "check",
    "combine",
    "count",
    "flatten",
    "leaves",
    "names",
    "partition",
    "tree_flatten",
    "tree_map",
    "tree_unflatten",
    "unflatten",
]

Tree = Any
"""A pytree: nested plain dicts of tensors for parameters and state; tuples and lists too for inputs and outputs."""

Leaf = Any
Spec = _pytree.TreeSpec


def tree_flatten(tree: Tree) -> tuple[list[Leaf], Spec]:
    """Return the leaves in tree order and the structure that `tree_unflatten` needs."""
    return _pytree.tree_flatten(tree)


def tree_unflatten(leaves: Sequence[Leaf], spec: Spec) -> Tree:
    """Rebuild a tree from its leaves and the structure that `tree_flatten` gave."""
    return _pytree.tree_unflatten(leaves, spec)


def flatten_with_paths(tree: Tree) -> tuple[list[tuple[tuple[Any, ...], Leaf]], Spec]:
    """Return the leaves of any pytree, each with PyTorch's path of keys to it; and the structure."""
    return _pytree.tree_flatten_with_path(tree)


def tree_map(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply `fn` leaf by leaf over trees of one structure."""
    return _pytree.tree_map(fn, tree, *rest)


def leaves(tree: Tree) -> list[Leaf]:
    """Return the leaves in tree order."""
    return _pytree.tree_leaves(tree)


def register_dataclass(kind: type) -> None:
    """Make PyTorch's functions on pytrees, and so its transforms, take a dataclass apart, if they do not yet."""
    if kind not in _pytree.SUPPORTED_NODES:
        _pytree.register_dataclass(kind)


def register_node(
    kind: type, taken_apart: Callable[[Any], list[Any]], put_together: Callable[[list[Any]], Any]
) -> None:
    """Do the same for any class, by functions from an object to its parts and back."""
    if kind not in _pytree.SUPPORTED_NODES:
        _pytree.register_pytree_node(
            kind, lambda value: (taken_apart(value), None), lambda parts, _: put_together(list(parts))
        )


def allow_any_leaf(kind: type) -> None:
    """Let a registered class be put together from leaves that are no tensors, as `vmap` does with `out_dims`."""
    node = _pytree.SUPPORTED_NODES[kind]

    def unflatten(parts: Any, context: Any) -> Any:
        parts = list(parts)
        tensors = all(isinstance(leaf, Tensor) for leaf in leaves(parts))
        return node.unflatten_fn(parts, context) if tensors else parts

    _pytree.SUPPORTED_NODES[kind] = node._replace(unflatten_fn=unflatten)


def leaves_like(tree: Tree, like: Tree) -> list[Leaf] | None:
    """Return the leaves of `tree` in the order of `like`'s; None if the structures differ.

    Example:
        >>> leaves_like({"b": 2, "a": 1}, {"a": 0, "b": 0})
        [1, 2]
    """
    given, spec = tree_flatten(tree)
    expected, wanted = tree_flatten(like)
    if spec == wanted:
        return given
    try:
        flat, order = flatten(tree), names(like)
    except TreeError:  # keys that are no part of a name
        return None
    if len(given) != len(flat) or len(order) != len(expected) or flat.keys() != set(order):
        return None
    return [flat[name] for name in order]


def _walk(tree: Tree, prefix: str) -> Iterator[tuple[str, Leaf]]:
    if isinstance(tree, Mapping):
        for key, child in tree.items():
            if not isinstance(key, str) or not key or "." in key or "/" in key:
                raise TreeError(
                    f"tree key {key!r} under {prefix or 'the root'!r}: expected a string without '.' or '/'"
                )
            yield from _walk(child, f"{prefix}.{key}" if prefix else key)
    elif isinstance(tree, tuple | list):
        fields = getattr(tree, "_fields", None) or map(str, range(len(tree)))
        for key, child in zip(fields, tree, strict=True):
            yield from _walk(child, f"{prefix}.{key}" if prefix else key)
    elif tree is not None:
        yield prefix, tree


def flatten(tree: Tree) -> dict[str, Leaf]:
    """Return the leaves by dotted name, in tree order; positions are named "0", "1", ….

    A bare leaf has the empty name. Empty dicts and None hold no leaves and leave no trace.

    Raises:
        TreeError: a key is not a string, is empty, or holds a "." or "/".

    Example:
        >>> flatten({"fc1": {"weight": 1, "bias": 2}})
        {'fc1.weight': 1, 'fc1.bias': 2}
    """
    return dict(_walk(tree, ""))


def names(tree: Tree) -> list[str]:
    """Return the dotted names of the leaves, in tree order."""
    return [name for name, _ in _walk(tree, "")]


def unflatten(flat: Mapping[str, Leaf]) -> Tree:
    """Return nested dicts from dotted names; the inverse of `flatten` on trees of dicts.

    Raises:
        TreeError: one name is both a leaf and the prefix of another.

    Example:
        >>> unflatten({"fc1.weight": 1, "fc1.bias": 2})
        {'fc1': {'weight': 1, 'bias': 2}}
    """
    if list(flat) == [""]:
        return flat[""]
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split(".")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise TreeError(f"{name!r} lies under {key!r}, which is itself a leaf: rename one of them")
        if last in node:
            raise TreeError(f"{name!r} is both a leaf and a branch: rename one of them")
        node[last] = leaf
    return tree


def _shape(leaf: Leaf) -> tuple[int, ...]:
    return tuple(leaf.shape) if hasattr(leaf, "shape") else ()


def differences(given: Tree, expected: Tree) -> list[str]:
    """Return one line for each missing, extra and mis-shaped leaf of `given`."""
    have, want = flatten(given), flatten(expected)
    extra = [name for name in have if name not in want]
    missing = [name for name in want if name not in have]
    lines = [f"missing {name!r} of shape {_shape(want[name])}{nearest(name, extra)}" for name in missing]
    lines += [f"extra {name!r} of shape {_shape(have[name])}{nearest(name, missing or want)}" for name in extra]
    lines += [
        f"mis-shaped {name!r}: given {_shape(leaf)}, expected {_shape(want[name])}"
        for name, leaf in have.items()
        if name in want and _shape(leaf) != _shape(want[name])
    ]
    return lines


def check(given: Tree, expected: Tree, *, what: str = "params") -> None:
    """Raise one error that lists every missing, extra and mis-shaped leaf of `given`.

    Args:
        given: the tree to check.
        expected: a tree with the right names and shapes; only the shapes of its leaves are read.
        what: how the message calls the tree.

    Raises:
        TreeError: the trees differ in names or shapes.
    """
    lines = differences(given, expected)
    if lines:
        fix = "take the names and shapes that block.init gives"
        raise TreeError(f"{what}: {len(lines)} leaves do not fit:\n  " + "\n  ".join(lines) + f"\n  fix: {fix}")


def partition(tree: Tree, where: str | Sequence[str] | Callable[[str, Leaf], bool]) -> tuple[Tree, Tree]:
    """Split a tree of dicts into the leaves chosen by `where` and the rest; see `combine`.

    Args:
        tree: nested dicts.
        where: glob patterns over dotted names (`"fc2.*"`), or a function of name and leaf.

    Returns:
        Two nested dicts, the chosen leaves and the rest. Differentiate by the first to freeze the second.

    Raises:
        TreeError: a pattern matches no leaf.

    Example:
        >>> train, frozen = partition({"fc1": {"weight": 1}, "fc2": {"weight": 2}}, "fc2.*")
        >>> train, frozen
        ({'fc2': {'weight': 2}}, {'fc1': {'weight': 1}})
    """
    flat = flatten(tree)
    if callable(where):
        chosen = {name for name, leaf in flat.items() if where(name, leaf)}
    else:
        chosen = set()
        for pattern in (where,) if isinstance(where, str) else where:
            matched = fnmatch.filter(flat, pattern)
            if not matched:
                raise TreeError(
                    f"partition: pattern {pattern!r} matches none of {len(flat)} leaves, such as {list(flat)[:3]}"
                )
            chosen.update(matched)
    first = {name: leaf for name, leaf in flat.items() if name in chosen}
    return unflatten(first), unflatten({name: leaf for name, leaf in flat.items() if name not in chosen})


def combine(*trees: Tree) -> Tree:
    """Merge nested dicts that share no leaf: the inverse of `partition`, in any order.

    Raises:
        TreeError: a name stands in two of the trees.
    """
    merged: dict[str, Any] = {}
    for tree in trees:
        for key, value in tree.items():
            if key not in merged:
                merged[key] = value
            elif isinstance(merged[key], dict) and isinstance(value, dict):
                merged[key] = combine(merged[key], value)
            else:
                raise TreeError(f"combine: {key!r} stands in two of the trees: keep it in one")
    return merged


def cast(tree: Tree, dtype: torch.dtype) -> Tree:
    """Cast the floating-point leaves; all other leaves stay unchanged.

    Raises:
        ArgumentError: `dtype` is not a floating-point dtype.
    """
    if not dtype.is_floating_point:
        raise ArgumentError(f"cast to {dtype}: parameters are floating point; give torch.float32, float64, bfloat16, …")
    return tree_map(
        lambda leaf: leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, tree
    )


def count(tree: Tree) -> int:
    """Return the number of scalar values in the tree.

    >>> count({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)})
    15
    """
    return sum(leaf.numel() for leaf in leaves(tree) if isinstance(leaf, Tensor))
