"""Catalogue rows as ready calls: a function, its arguments, and which of their sizes may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from pure.block import Block
from pure.catalogue import Case

BATCH = {0: "batch"}


@dataclasses.dataclass(frozen=True)
class Call:
    """A pure function and example arguments; arguments that a block does not have are left out.

    Attributes:
        name: The catalogue's.
        fn: ``fn(params, x)``, then ``state`` and ``extras`` where there are any.
        args: Its arguments.
        dynamic: The batch of ``x``, in the style of vmap's ``in_dims``.
    """

    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    dynamic: tuple[Any, ...]


def call(case: Case, *, seed: int = 0) -> Call:
    """Return the row as a call, with parameters and input drawn from the seed."""
    block, params, state, x, extras = case.example(seed=seed)
    extras = {key: torch.tensor(value) if type(value) is float else value for key, value in extras.items()}
    more = tuple(tree for tree in (state, extras) if tree)
    fn = _function(block, bool(state), bool(extras))
    return Call(case.name, fn, (params, x, *more), (None, BATCH, *(None for _ in more)))


def _function(block: Block, has_state: bool, has_extras: bool) -> Callable[..., Any]:
    """Return the evaluation of a block with the arguments it has; their names become the file's."""

    def stateless(params: Any, x: Any) -> Any:
        return block(params, x)

    def stateful(params: Any, x: Any, state: Any) -> Any:
        return block(params, x, state)

    def controlled(params: Any, x: Any, extras: Any) -> Any:
        return block(params, x, {}, extras)

    def whole(params: Any, x: Any, state: Any, extras: Any) -> Any:
        return block(params, x, state, extras)

    return {(False, False): stateless, (True, False): stateful, (False, True): controlled, (True, True): whole}[
        has_state, has_extras
    ]


def loss(case: Case, *, seed: int = 0) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return ``(loss, (params, x, …))``: half the mean square of the output, a loss that any output has."""
    ready = call(case, seed=seed)

    def half_mean_square(*args: Any) -> Any:
        return ready.fn(*args).square().mean() / 2

    return half_mean_square, ready.args
