"""Transformations of a part of the leaves, of several parts differently, and of steps that are finite only."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError, TreeError
from pure.optim.transformation import GradientTransformation, Pair, Tree, as_transformation, first_step, recorded

__all__ = ["Where", "apply_if_finite", "masked", "multi_transform"]

Where = str | Sequence[str] | Callable[[str, Tensor], bool] | Mapping[str, Any]
"""Which leaves: glob patterns over dotted names, a function of name and leaf, or a tree of booleans."""


def chosen_names(params: Tree, where: Where) -> set[str]:
    """Return the dotted names of the leaves chosen.

    Raises:
        TreeError: a pattern matches no leaf, or a tree of booleans is not shaped like the parameters.
    """
    if isinstance(where, Mapping):
        flags = tree.flatten(where)
        if flags.keys() != tree.flatten(params).keys():
            missing = sorted(flags.keys() ^ tree.flatten(params).keys())[:3]
            raise TreeError(f"mask: names that only one of mask and parameters has: {missing}; give one boolean a leaf")
        return {name for name, flag in flags.items() if flag}
    return set(tree.flatten(tree.partition(params, where)[0]))


@recorded
def masked(inner: Pair, mask: Where) -> GradientTransformation:
    """Return a transformation of some leaves; the others pass unchanged.

    Args:
        inner: what is done to the chosen leaves.
        mask: glob patterns over dotted names (`"head.*"`), a function of name and leaf, or a tree of booleans.

    Returns:
        A `GradientTransformation` with the state of `inner`, on the chosen leaves alone.

    Raises:
        TreeError: a pattern matches no leaf (when it is first used).

    Example:
        >>> from pure import optim
        >>> freeze = optim.chain(optim.sgd(0.1), optim.masked(optim.scale(0.0), "stem.*"))
        >>> params = {"stem": {"w": torch.ones(1)}, "head": {"w": torch.ones(1)}}
        >>> freeze.step(params, freeze.init(params), params)[0]
        {'stem': {'w': tensor([1.])}, 'head': {'w': tensor([0.9000])}}
    """
    link = as_transformation(inner)

    def split(given: Tree, params: Tree) -> tuple[Tree, Tree]:
        names = chosen_names(params, mask)
        first, second = tree.partition(given, lambda name, leaf: name in names)
        return first, second

    def update(updates: Tree, state: Any, params: Tree) -> tuple[Tree, Any]:
        own, others = split(updates, params)
        own, state = link.update(own, state, split(params, params)[0])
        return in_order(tree.combine(own, others), updates), state

    return GradientTransformation(lambda params: link.init(split(params, params)[0]), update)


@recorded
def multi_transform(
    transforms: Mapping[str, Pair], labels: Mapping[str, str] | Callable[[str, Tensor], str]
) -> GradientTransformation:
    """Return one transformation for each kind of leaf.

    Args:
        transforms: from a label to what is done to the leaves that have it.
        labels: from glob patterns over dotted names to labels, of which the first that fits counts (`"*"` last for the
            rest); or a function from name and leaf to a label.

    Returns:
        A `GradientTransformation` whose state is a dict of theirs by label.

    Raises:
        ArgumentError: a leaf without a label, or a label without a transformation (when it is first used).

    Example:
        >>> from pure import optim
        >>> rates = {"slow": optim.sgd(0.1), "fast": optim.sgd(0.5)}
        >>> both = optim.multi_transform(rates, {"stem.*": "slow", "*": "fast"})
        >>> params = {"head": {"w": torch.ones(1)}, "stem": {"w": torch.ones(1)}}
        >>> both.step(params, both.init(params), params)[0]
        {'head': {'w': tensor([0.5000])}, 'stem': {'w': tensor([0.9000])}}
    """
    links = {label: as_transformation(link) for label, link in transforms.items()}

    def label_of(name: str, leaf: Tensor) -> str:
        if callable(labels):
            label = labels(name, leaf)
        else:
            fitting = [label for pattern, label in labels.items() if fnmatch.fnmatchcase(name, pattern)]
            if not fitting:
                raise ArgumentError(f"{name} matches none of {list(labels)}: add '*' as the last pattern, for the rest")
            label = fitting[0]
        if label not in links:
            raise ArgumentError(f"{name} is labelled {label!r}: expected one of {list(links)}")
        return label

    def parts(given: Tree, params: Tree) -> dict[str, Tree]:
        owner = {name: label_of(name, leaf) for name, leaf in tree.flatten(params).items()}
        flat = tree.flatten(given)
        found = {label: {name: leaf for name, leaf in flat.items() if owner[name] == label} for label in links}
        return {label: tree.unflatten(part) for label, part in found.items() if part}

    def init(params: Tree) -> dict[str, Any]:
        return {label: links[label].init(part) for label, part in parts(params, params).items()}

    def update(updates: Tree, state: dict[str, Any], params: Tree) -> tuple[Tree, dict[str, Any]]:
        own = parts(params, params)
        found = {
            label: links[label].update(part, state[label], own[label]) for label, part in parts(updates, params).items()
        }
        whole = tree.combine(*(part for part, _ in found.values()))
        return in_order(whole, updates), {label: after for label, (_, after) in found.items()}

    return GradientTransformation(init, update)


@recorded
def apply_if_finite(inner: Pair, max_consecutive_errors: int) -> GradientTransformation:
    """Return a transformation that leaves out steps whose gradients are not all finite.

    A step left out returns updates of 0 and keeps the inner state. After more than `max_consecutive_errors` of them in
    a row they are applied, so that a lasting error shows.

    Args:
        inner: what is done to finite gradients.
        max_consecutive_errors: how many steps in a row may be left out.

    Returns:
        A `GradientTransformation` with state {"errors": int64 (those in a row), "all_errors": int64, "inner": …}.

    Raises:
        ArgumentError: a negative number of steps.
    """
    if max_consecutive_errors < 0:
        raise ArgumentError(f"max_consecutive_errors={max_consecutive_errors}: expected a whole number of at least 0")
    link = as_transformation(inner)

    def init(params: Tree) -> dict[str, Any]:
        return {"errors": first_step(params), "all_errors": first_step(params), "inner": link.init(params)}

    def update(updates: Tree, state: dict[str, Any], params: Tree) -> tuple[Tree, dict[str, Any]]:
        finite = torch.stack([leaf.isfinite().all() for leaf in tree.leaves(updates)]).all()
        errors = torch.where(finite, 0, state["errors"] + 1)
        applied = finite | (errors > max_consecutive_errors)
        found, after = link.update(updates, state["inner"], params)
        kept = tree.tree_map(lambda new, old: torch.where(applied, new, old), after, state["inner"])
        return tree.tree_map(lambda u: torch.where(applied, u, torch.zeros_like(u)), found), {
            "errors": errors,
            "all_errors": torch.where(finite, state["all_errors"], state["all_errors"] + 1),
            "inner": kept,
        }

    return GradientTransformation(init, update)


def in_order(given: Tree, example: Tree) -> Tree:
    """Return a tree of dicts with its keys in the order of an example of the same names."""
    flat = tree.flatten(given)
    return tree.unflatten({name: flat[name] for name in tree.names(example)})
