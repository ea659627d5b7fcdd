"""Parameter pytrees: nested plain dicts of tensors, and functions on them."""

from pure.tree.pytree import (
    Tree,
    cast,
    check,
    combine,
    count,
    flatten,
    leaves,
    names,
    partition,
    tree_flatten,
    tree_map,
    tree_unflatten,
    unflatten,
)
from pure.tree.stacking import stack, unstack

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
    "stack",
    "tree_flatten",
    "tree_map",
    "tree_unflatten",
    "unflatten",
    "unstack",
]
