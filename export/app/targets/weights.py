"""Weights from a safetensors file for a target: a module's state dict, or the trees of a block."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from export.errors import ArgumentError, listed, nearest
from pure import interop, tree
from pure.block import Block
from pure.interop.mismatch import CheckpointError, misfit

__all__ = ["block_trees", "load_into"]

MAX_LISTED = 10
"""The most differences that a message lists."""


def load_into(module: nn.Module, name: str, path: Path) -> None:
    """Load a state dict into a module.

    Raises:
        CheckpointError: tensors that are missing, unexpected or of another shape, all in one message.
        SaveError: the file cannot be read.
    """
    given = interop.read(path)
    own = module.state_dict()
    stored = {leaf.data_ptr() for key, leaf in own.items() if key in given}
    tied = [key for key, leaf in own.items() if key not in given and leaf.numel() and leaf.data_ptr() in stored]
    _check(name, path, own, given, optional=tied)
    module.load_state_dict(given, strict=False)  # what may be absent is there already


def block_trees(block: Block, name: str, path: Path, params: Any, state: Any) -> tuple[Any, Any]:
    """Return a block's trees with the tensors of a file.

    Args:
        block: the block.
        name: what it is called in messages.
        path: the file, by the names of `pure.flatten(params)` and `pure.flatten(state)`, with or without `params.` and
            `state.` in front, or by those that a library gives the network. Without any of the state, the initial
            state is kept.
        params: parameters as the block initialises them.
        state: the state likewise.

    Raises:
        CheckpointError: tensors that are missing, unexpected or of another shape, all in one message.
        SaveError: the file cannot be read.
    """
    given = interop.read(path)
    roots = ("params.", "state.")
    if given and all(key.startswith(roots) for key in given):
        given = {key.partition(".")[2]: leaf for key, leaf in given.items()}
    flat_params, flat_state = tree.flatten(params), tree.flatten(state)
    own = {**flat_params, **flat_state}
    if flat_params.keys() - given.keys():
        with contextlib.suppress(ArgumentError, CheckpointError):  # not a library's names either: said in its own
            return interop.from_state_dict(block, given)
    _check(name, path, own, given, optional=() if flat_state.keys() & given.keys() else tuple(flat_state))
    filled = {key: given.get(key, leaf).to(leaf.dtype) for key, leaf in own.items()}

    def part(flat: dict[str, Tensor]) -> Any:
        return tree.unflatten({key: filled[key] for key in flat}) if flat else {}

    return part(flat_params), part(flat_state)


def _check(
    name: str, path: Path, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], optional: Sequence[str]
) -> None:
    missing = [key for key in wanted if key not in given and key not in optional]
    unexpected = [key for key in given if key not in wanted]
    misfits = {key: wrong for key, leaf in given.items() if key in wanted and (wrong := misfit(key, leaf, wanted[key]))}
    problems = [
        *(f"{key}: missing{nearest(key, unexpected)}" for key in missing),
        *(f"{key}: not expected{nearest(key, missing)}" for key in unexpected),
        *misfits.values(),
    ]
    if problems:
        more = [f"and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
        raise CheckpointError(
            f"the tensors of {path} are not those of {name}:{listed([*problems[:MAX_LISTED], *more])}",
            missing,
            unexpected,
            misfits,
        )
