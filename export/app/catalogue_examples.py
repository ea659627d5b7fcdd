"""Blocks and rows of the catalogue as ready calls: a function, its arguments, and which of their sizes may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.block import Block
from pure.catalogue import Case

__all__ = ["BATCH", "Call", "batch_loss", "block_call", "call", "sample_loss"]

BATCH = {0: "batch"}


@dataclasses.dataclass(frozen=True)
class Call:
    """A pure function and example arguments; arguments that a block does not have are left out.

    Attributes:
        names: the arguments' names: `params`, `x`, then `state` and `extras` where there are any.
        fn: the function.
        args: its arguments.
        dynamic: the batch of `x` and of the extras that have one, in the style of vmap's `in_dims`.
        own_extras: the names of the extras that have one entry a sample.
        kwargs: its keyword arguments, which only a module has.
    """

    names: tuple[str, ...]
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    dynamic: tuple[Any, ...]
    own_extras: tuple[str, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def owned(self) -> tuple[str, ...]:
        """The names of the arguments that are the block's own trees, not inputs."""
        return tuple(name for name in ("params", "state") if name in self.names)

    def argument(self, name: str) -> Any:
        """Return the argument of that name."""
        return self.args[self.names.index(name)]

    def replaced(self, values: Mapping[str, Any]) -> Call:
        """Return the call with other arguments under some of its names."""
        args = tuple(values.get(name, arg) for name, arg in zip(self.names, self.args, strict=True))
        return dataclasses.replace(self, args=args)

    def positions(self, *names: str) -> tuple[int, ...]:
        """Return where the arguments of these names stand, leaving out those that are not there."""
        return tuple(self.names.index(name) for name in names if name in self.names)

    def mapped(self) -> tuple[Any, ...]:
        """Return what has a batch axis: `x` and, if there are any, the extras that have one."""
        if not self.own_extras:
            return (self.args[1],)
        return self.args[1], {name: self.args[-1][name] for name in self.own_extras}


def call(case: Case, *, seed: int = 0) -> Call:
    """Return the row as a call, with parameters and input drawn from the seed."""
    block, params, state, x, extras = case.example(seed=seed)
    return block_call(block, params, x, state, extras, tuple(name for name, _ in case.extras))


def block_call(
    block: Block, params: Any, x: Any, state: Any, extras: Mapping[str, Any], own: tuple[str, ...] = ()
) -> Call:
    """Return a block as a call; `own` names the extras that have one entry a sample."""
    extras = {key: torch.tensor(value) if type(value) is float else value for key, value in extras.items()}
    more = {name: value for name, value in (("state", state), ("extras", extras)) if value}
    fn = _function(block, bool(state), bool(extras))
    axes = {"extras": dict.fromkeys(own, BATCH) if own else None}
    dynamic = (None, BATCH, *(axes.get(name) for name in more))
    return Call(("params", "x", *more), fn, (params, x, *more.values()), dynamic, own)


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

    if has_state:
        return whole if has_extras else stateful
    return controlled if has_extras else stateless


def batch_loss(ready: Call) -> Callable[..., Tensor]:
    """Return half the mean square of the output, a loss that any block has: `loss(params, x, …)`."""

    def half_mean_square(*args: Any) -> Tensor:
        return torch.stack([leaf.square().mean() for leaf in tree.leaves(ready.fn(*args))]).mean() / 2

    return half_mean_square


def sample_loss(ready: Call) -> Callable[..., Tensor]:
    """Return the same loss of one sample: `loss(params, *mapped)`, without the batch axis."""
    loss = batch_loss(ready)

    def half_mean_square(params: Any, x: Tensor, own: Any = None) -> Tensor:
        rest = list(ready.args[2:])
        if own is not None:
            rest[-1] = {**rest[-1], **{name: value[None] for name, value in own.items()}}
        return loss(params, x[None], *rest)

    return half_mean_square
