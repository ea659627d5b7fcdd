"""Rebuild a block with other children, or with the sizes of smaller leaves."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from pure import tree
from pure.block import EMPTY, Block, Params, Shape, State, specification
from pure.compose.adapt import Rename
from pure.compose.chain import Named
from pure.compose.repeat import Repeat
from pure.compose.wrapper import Wrapper
from pure.errors import PureError, UnsupportedError
from pure.tree.pytree import differences

__all__ = ["held_children", "part", "resized", "with_children", "with_items"]

MAX_COMBINATIONS = 20_000
"""The most combinations of sizes that are tried for one block."""


def part(trees: Mapping[str, Any], name: str) -> Any:
    """Return a child's part of a tree, empty where it has none."""
    return trees.get(name, EMPTY)


def held_children(block: Block) -> list[str]:
    """Return the names of the children in fields; a block makes the others from its sizes."""
    if isinstance(block, Named):
        return list(block.children())
    _, found = _with_fields(block, {})
    return [name for name in block.children() if name in found]


def with_children(block: Block, new: Mapping[str, Block]) -> Block:
    """Return the block with some of its children replaced; a chain keeps their names.

    Raises:
        UnsupportedError: children that the block makes itself and that no field holds.
    """
    if not new:
        return block
    if isinstance(block, Named):
        return with_items(block, {name: new.get(name, child) for name, child in block.items})
    missing = sorted(set(new) - set(held_children(block)))
    if missing:
        raise UnsupportedError(
            f"{type(block).__name__} makes its children {missing} itself: they cannot be replaced by others"
        )
    changed, _ = _with_fields(block, new)
    return dataclasses.replace(block, **changed)


def _with_fields(block: Block, new: Mapping[str, Block]) -> tuple[dict[str, Any], set[str]]:
    """Return the fields that hold children to be replaced, with the new ones, and the names of all children held."""
    waiting = list(block.children().items())
    found: set[str] = set()
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(block):
        if field.init:
            value = getattr(block, field.name)
            swapped = _swapped(value, waiting, new, found)
            if swapped is not value:
                changed[field.name] = swapped
    return changed, found


def with_items(block: Named, items: Mapping[str, Block]) -> Block:
    """Return a chain, or whatever runs named children, over other children."""
    return dataclasses.replace(block, items=tuple(items.items()))


def _swapped(value: Any, waiting: list[tuple[str, Block]], new: Mapping[str, Block], found: set[str]) -> Any:
    """Return a field's value with the children in it replaced; found children move from `waiting` to `found`."""
    if isinstance(value, tuple):
        parts = [_swapped(entry, waiting, new, found) for entry in value]
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else tuple(parts)
    if isinstance(value, Block):
        for index, (name, child) in enumerate(waiting):
            if child is value:
                del waiting[index]
                found.add(name)
                return new.get(name, value)
        if isinstance(value, Named):  # a chain that the block takes apart
            items = {name: _swapped(child, waiting, new, found) for name, child in value.items}
            if any(items[name] is not child for name, child in value.items):
                return with_items(value, items)
    return value


def resized(block: Block, params: Params, state: State = EMPTY) -> Block:
    """Return the block with the sizes that `params` and `state` have.

    Children are resized one by one; of a block with sizes of its own, as few as possible are changed so that `init`
    gives leaves of the given shapes.

    Args:
        block: any block.
        params: parameters under the names of the block's own, of other shapes.
        state: its state, likewise.

    Raises:
        UnsupportedError: no sizes of a block give these leaves.

    Example:
        >>> import torch
        >>> from pure import Linear
        >>> resized(Linear(4, 6), {"weight": torch.zeros(3, 4), "bias": torch.zeros(3)})
        Linear(in_features=4, out_features=3)
    """
    if _fits(block, params, state):
        return block
    if isinstance(block, Rename):
        inner = block._inner(params), block._inner(dict(state))
        return dataclasses.replace(block, block=resized(block.block, *inner))
    if isinstance(block, Repeat):
        first = [tree.tree_map(lambda leaf: leaf[0], trees) for trees in (params, state)]
        return dataclasses.replace(block, block=resized(block.block, *first))
    if isinstance(block, Wrapper):
        return dataclasses.replace(block, block=resized(block.block, params, state))
    children = block.children()
    new = {}
    for name in held_children(block):
        trees = part(params, name), part(state, name)
        if not _fits(children[name], *trees):
            new[name] = resized(children[name], *trees)
    return _with_sizes(block, new, params, state)


def _shapes(trees: Any) -> dict[str, Shape]:
    return {name: tuple(leaf.shape) for name, leaf in tree.flatten(trees).items()}


def _fits(block: Block, params: Params, state: State) -> bool:
    try:
        expected = specification(block)
    except PureError:
        return False
    return _shapes(expected[0]) == _shapes(params) and _shapes(expected[1]) == _shapes(state)


def _with_sizes(block: Block, new: Mapping[str, Block], params: Params, state: State) -> Block:
    """Return the block with new children and the fewest of its own integers changed that give leaves these shapes."""
    options = {spot: _candidates(size, _ratios(block, params, state)) for spot, size in _integers(block)}
    changes = _changes(block, {spot: sizes for spot, sizes in options.items() if sizes})
    for sizes in itertools.islice(itertools.chain([{}], changes), MAX_COMBINATIONS):
        made = _replaced(block, new, sizes)
        if made is not None and _fits(made, params, state):
            return made
    differ = differences(params, specification(block)[0]) + differences(state, specification(block)[1])
    raise UnsupportedError(f"no sizes of {block} give the smaller leaves: " + "; ".join(differ))


def _changes(block: Block, options: Mapping[tuple[str, int], list[int]]) -> Iterator[dict[tuple[str, int], int]]:
    """Yield the ways to change sizes, few changes first; channels are cut by whole groups, so `groups` must change."""
    grouped = {("groups", -1)} if getattr(block, "groups", 1) > 1 else set()
    for count in range(1, len(options) + 1):
        for spots in itertools.combinations(options, count):
            if grouped <= set(spots):
                for sizes in itertools.product(*(options[spot] for spot in spots)):
                    yield dict(zip(spots, sizes, strict=True))


def _ratios(block: Block, params: Params, state: State) -> list[tuple[int, int]]:
    """Return (old size, new size) of every axis that changed."""
    found: dict[tuple[int, int], None] = {}
    for expected, given in zip(specification(block), (params, state), strict=True):
        old, new = _shapes(expected), _shapes(given)
        for name in old.keys() & new.keys():
            found.update({(a, b): None for a, b in zip(old[name], new[name], strict=False) if a != b})
    return sorted(found)


def _candidates(size: int, ratios: list[tuple[int, int]]) -> list[int]:
    """Return the other sizes that result if a size is scaled as one of the changed axes was."""
    return sorted({size * new // old for old, new in ratios if size * new % old == 0 and size * new > 0} - {size})


def _integers(block: Block) -> Iterator[tuple[tuple[str, int], int]]:
    """Yield every integer among the fields as ((field, position in a tuple or −1), value)."""
    for field in dataclasses.fields(block):
        value = getattr(block, field.name) if field.init else None
        for position, entry in enumerate(value) if isinstance(value, tuple) else [(-1, value)]:
            if isinstance(entry, int) and not isinstance(entry, bool):
                yield (field.name, position), entry


def _replaced(block: Block, new: Mapping[str, Block], sizes: Mapping[tuple[str, int], int]) -> Block | None:
    """Return the block with those children and integers, or None if it refuses them."""
    if isinstance(block, Named):
        return with_children(block, new) if not sizes else None
    changed, _ = _with_fields(block, new)
    for (name, position), size in sizes.items():
        if position < 0:
            changed[name] = size
        else:
            old = changed.get(name, getattr(block, name))
            changed[name] = (*old[:position], size, *old[position + 1 :])
    try:
        return dataclasses.replace(block, **changed)
    except (PureError, ValueError, TypeError):
        return None
