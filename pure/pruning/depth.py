"""Depth pruning: remove residual branches that add little; their skips stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from pure import tree
from pure.block import EMPTY, Block, Params, State, check_params, specification
from pure.compose.adapt import Rename
from pure.compose.chain import Sequential
from pure.compose.repeat import Repeat
from pure.compose.wrapper import Wrapper
from pure.errors import ArgumentError, UnsupportedError, nearest
from pure.layers.activation import Activation
from pure.pruning.rebuild import part, with_children, with_items
from pure.skips.additive.residual import Residual
from pure.skips.additive.shortcut import Identity
from pure.tags import observe

__all__ = ["block_importance", "remove_blocks"]

Trees = dict[str, Any]
Paths = tuple[tuple[str, ...], ...]


def block_importance(
    block: Block, params: Params, x: Any, state: State = EMPTY, extras: Mapping[str, Any] = EMPTY
) -> dict[str, float]:
    """Return {dotted path: ‖branch‖ / ‖stream‖} of every block that tags both.

    Blocks are in the order in which they run. The norms are over the whole batch, in evaluation. A block with a small
    ratio hardly changes the stream. The outermost block has the empty path.

    Source: Veit et al. 2016 (1605.06431), section 4.1, where single blocks are deleted after training.

    Example:
        >>> from pure import nets
        >>> block = nets.residual_mlp(4, 8, depth=2)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> list(block_importance(block, params, torch.ones(1, 4)))
        ['0', '1']
    """
    with torch.no_grad():
        _, seen = observe(block.__call__, ("branch", "stream"))(params, x, state, extras)
    streams = {tagged.path: tagged.value for tagged in seen if tagged.kind == "stream"}
    ratios: dict[str, float] = {}
    for tagged in seen:
        owner, _, name = tagged.path.rpartition(".")
        _, sign, again = name.partition("#")
        stream = streams.get(f"{owner}.stream{sign}{again}".lstrip("."))
        if tagged.kind == "branch" and stream is not None:
            norm = float(torch.linalg.vector_norm(stream.double()))
            size = float(torch.linalg.vector_norm(tagged.value.double()))
            ratios[f"{owner}{sign}{again}"] = size / norm if norm else 0.0 if size == 0 else float("inf")
    return ratios


def remove_blocks(
    block: Block,
    params: Params,
    state: State,
    names: Iterable[str] | Mapping[str, float],
    *,
    threshold: float | None = None,
) -> tuple[Block, Params, State]:
    """Return `(block, params, state)` without the named residual blocks.

    y = activation(x + f(x)) becomes activation(x). The other children keep their names and so their leaves; a `Repeat`
    loses the slices of the removed depths. Removing a branch that is exactly 0 leaves the output the same, bit for bit.

    Args:
        block: any block.
        params: its parameters.
        state: its state.
        names: dotted paths of the residual blocks to remove, as `block_importance` gives them; or, with a threshold,
            the result of `block_importance`.
        threshold: remove every block of `names` whose importance is at most this, except those that cannot be removed.

    Raises:
        ArgumentError: a path that leads to no block, a threshold without importances, or importances without one.
        UnsupportedError: a block that is not a `Residual` with an identity shortcut, or stacked parameters that would
            differ in shape between the depths of a `Repeat`.

    Source: Veit et al. 2016 (1605.06431), section 4.1.

    Example:
        >>> from pure import nets
        >>> block = nets.residual_mlp(4, 8, depth=3)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> smaller, kept, _ = remove_blocks(block, params, {}, ["1"])
        >>> list(kept)
        ['0', '2']
    """
    if isinstance(names, str):
        raise ArgumentError(f"remove_blocks names={names!r}: expected several paths; write [{names!r}]")
    if threshold is None and isinstance(names, Mapping):
        raise ArgumentError("remove_blocks of importances: give the threshold too, or a list of the paths to remove")
    if threshold is not None:
        if not isinstance(names, Mapping):
            raise ArgumentError("remove_blocks with a threshold: give the importances, names=block_importance(…)")
        small = [name for name, size in names.items() if size <= threshold]
        names = [name for name in small if "#" not in name and _plain(_at(block, _path(name)))]
    paths = tuple(dict.fromkeys(map(_path, names)))
    for path in paths:
        found = _at(block, path)
        if not _plain(found):
            raise UnsupportedError(
                f"remove_blocks {'.'.join(path)!r}: {found}: expected a Residual with an identity shortcut; without "
                "its branch another shortcut changes the shape or the values"
            )
    paths = tuple(path for path in paths if not any(path[: len(other)] == other for other in paths if other != path))
    made, *trees = _without(block, dict(params), dict(state), paths, 0)
    check_params(made, trees[0], trees[1])
    return made, trees[0], trees[1]


def _plain(block: Block) -> bool:
    return isinstance(block, Residual) and type(block.shortcut) is Identity


def _at(block: Block, path: tuple[str, ...]) -> Block:
    for depth, name in enumerate(path):
        children = block.children()
        if name not in children:
            raise ArgumentError(
                f"remove_blocks {'.'.join(path)!r}: {'.'.join(path[:depth]) or 'the block'} has no child "
                f"{name!r}{nearest(name, children)}: one of {', '.join(children)}"
            )
        block = children[name]
    return block


def _path(name: str) -> tuple[str, ...]:
    return tuple(name.split(".")) if name else ()


def _left(block: Block) -> Block:
    """Return the block that a residual block without its branch is: its activation, or the identity."""
    assert isinstance(block, Residual)
    return Identity() if block.activation == "identity" else Activation(block.activation)


def _without(block: Block, params: Trees, state: Trees, paths: Paths, level: int) -> tuple[Block, Trees, Trees]:
    """Return block and trees without the blocks at the paths; the leaves have `level` stacking axes in front."""
    if () in paths:
        return _left(block), {}, {}
    if not paths:
        return block, params, state
    if isinstance(block, Rename):
        inner = _without(block.block, block._inner(params), block._inner(state), paths, level)
        return _renamed(block, *inner)
    if isinstance(block, Repeat):
        return _shorter(block, params, state, paths, level)
    if isinstance(block, Wrapper):
        made, params, state = _without(block.block, params, state, paths, level)
        return dataclasses.replace(block, block=made), params, state
    children = block.children()
    new: dict[str, Block] = {}
    for name in dict.fromkeys(path[0] for path in paths):
        below = tuple(path[1:] for path in paths if path[0] == name)
        new[name], *trees = _without(children[name], part(params, name), part(state, name), below, level)
        params = _with(params, name, trees[0])
        state = _with(state, name, trees[1])
    if isinstance(block, Sequential):
        kept = {name: new.get(name, child) for name, child in block.items}
        return with_items(block, {n: c for n, c in kept.items() if not _gone(n, c, new)}), params, state
    return with_children(block, new), params, state


def _gone(name: str, child: Block, new: Mapping[str, Block]) -> bool:
    return name in new and type(child) is Identity


def _with(trees: Trees, name: str, new: Trees) -> Trees:
    """Return a tree with another part under a name, or without the name if the part is empty."""
    if name not in trees:
        return trees
    if new:
        return {**trees, name: new}
    return {key: value for key, value in trees.items() if key != name}


def _renamed(block: Rename, made: Block, params: Trees, state: Trees) -> tuple[Block, Trees, Trees]:
    leaves = [name for trees in specification(made) for name in tree.names(trees)]
    names = tuple(
        (prefix, key)
        for prefix, key in block.names
        if any(name == prefix or name.startswith(prefix + ".") for name in leaves)
    )
    renamed = Rename(made, names)
    return renamed, renamed._outer(params), renamed._outer(state)


def _shorter(block: Repeat, params: Trees, state: Trees, paths: Paths, level: int) -> tuple[Block, Trees, Trees]:
    """Return a Repeat without some of its depths; a block inside it can be removed at all depths only."""
    inside = {path[1:] for path in paths} - {()}
    gone = {path[0] for path in paths if len(path) == 1}
    for rest in inside:
        if {path[0] for path in paths if path[1:] == rest} | gone < set(block.children()):
            raise UnsupportedError(
                f"remove_blocks {'.'.join(rest)!r} at some depths of {block}: stacked parameters have one shape for "
                "all depths: remove it at every depth, or make the network a Sequential"
            )
    if gone and isinstance(block.block, Residual) and block.block.activation != "identity":
        raise UnsupportedError(
            f"remove_blocks of {block}: its activation {block.block.activation!r} would stay at those depths alone: "
            "make the network a Sequential"
        )
    kept = [depth for depth in range(block.depth) if str(depth) not in gone]
    if not kept:
        return Identity(), {}, {}

    def slices(leaf: torch.Tensor) -> torch.Tensor:
        return leaf.index_select(level, torch.tensor(kept, device=leaf.device))

    vary = tuple((name, tuple(values[depth] for depth in kept)) for name, values in block.vary)
    params, state = tree.tree_map(slices, params), tree.tree_map(slices, state)
    made, params, state = _without(block.block, params, state, tuple(inside), level + 1)
    return dataclasses.replace(block, block=made, depth=len(kept), vary=vary), params, state
