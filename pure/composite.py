"""Blocks made of other blocks: fields hold the children, `combine` computes the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Protocol

import torch

from pure.block import (
    EMPTY,
    Applied,
    Block,
    Extras,
    Params,
    Reading,
    Shape,
    State,
    check_params,
    specification,
)
from pure.children import Blocks, Runner, as_child, check_blocks, frozen, raise_unless_tensor
from pure.errors import ArgumentError, PureError, TreeError
from pure.initializers import Device
from pure.leaf import LEAF_ERRORS, Leaf, given_keys, wrong_keys
from pure.spmd.process_group import is_mapped
from pure.tags import WATCHERS
from pure.tree import Tree

__all__ = ["Composite", "Run"]


class Run(Protocol):
    """Runs a child by name with its part of every tree, and keeps its new state."""

    def __call__(self, name: str, x: Any, shape: Shape | None = None, /) -> Any:
        """Return the child's output; a shortcut is told the `shape` that it must produce."""


@dataclass(frozen=True, repr=False)
class Composite(Block):
    """A block whose children are its fields that hold blocks, joined by its `combine`.

    A subclass writes `combine(run, params, x, extras)`; it may have parameters of its own beside its children's, by
    `own`. Trees, noise, new state, names in errors and tags follow. A child that did not run keeps its state.

    A field may hold a tuple (or list) of blocks, or a dict of them: the children then stand under the field's name, as
    in `torch.nn.ModuleList` and `ModuleDict`. With `branches=(f, g)` the leaves are `branches.0.weight`, …, and
    `run("branches.0", x)` runs f.

    Raises:
        ArgumentError: a field that is declared a Block and holds something else; in a call, `run` of a name that no
            child has.

    Example:
        >>> from pure import Linear
        >>> @dataclass(frozen=True, repr=False)
        ... class Half(Composite):
        ...     branch: Block
        ...     def combine(self, run, params, x, extras):
        ...         return (x + run("branch", x)) / 2
        >>> params, state = Half(Linear(3, 3)).init(torch.Generator().manual_seed(0))
        >>> Half(Linear(3, 3))(params, torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    _children: dict[str, Block] = field(init=False, repr=False, compare=False)
    _names: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_blocks(self)
        for entry in fields(self):
            if entry.init:
                object.__setattr__(self, entry.name, frozen(getattr(self, entry.name)))
        children = self.parts()
        object.__setattr__(self, "_children", children)
        own = self.own(torch.Generator(), torch.float32, "meta")
        object.__setattr__(self, "_names", frozenset(children) | frozenset(own))

    def parts(self) -> dict[str, Block]:
        """Return the children by name, in order of initialisation: the fields that hold blocks.

        Called once, when the block is made.
        """
        found = {entry.name: as_child(getattr(self, entry.name)) for entry in fields(self) if entry.init}
        return {name: child for name, child in found.items() if child is not None}

    def own(self, generator: torch.Generator, dtype: torch.dtype, device: Device) -> Params:
        """Return the block's own parameters, drawn after the children's; none by default."""
        return {}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the output; `run("branch", x)` is that child's output, in either mode."""
        raise NotImplementedError(f"{type(self).__name__} defines no combine")

    def children(self) -> dict[str, Block]:
        """Return the child blocks by name."""
        return dict(self._children)

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw the children's parameters, then the block's own."""
        params, state = super().init(generator, dtype, device)
        return {**params, **self.own(generator, dtype, device)}, state

    def runner(self, params: Params, state: State, extras: Extras, training: bool = False, noise: Any = None) -> Runner:
        """Return what runs a child by name, after a check of the names in `params` and `state`.

        Raises:
            TreeError: names in `params` that neither a child nor the block itself has.
            ArgumentError: a state with other names than the children's.
        """
        if not params.keys() <= self._names:
            raise wrong_keys(self, params)
        if state is not EMPTY and not (isinstance(state, dict) and state.keys() <= self._children.keys()):
            what = f"{type(self).__name__}: state holds {given_keys(state)}"
            raise ArgumentError(f"{what}, expected what init gave: extras are the fourth argument")
        return Runner(self, self._children, params, state, extras, training, noise)

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return the output and the children's new states."""
        return self._applied(self.combine, params, x, state, extras, training, noise)

    def _applied(
        self,
        combine: Callable[..., Any],
        params: Params,
        x: Any,
        state: State,
        extras: Extras,
        training: bool = False,
        noise: Any = None,
    ) -> Applied:
        """Return `combine` of the children and their new states."""
        run = self.runner(params, state, extras, training, noise)
        try:
            y = combine(run.__call__, params, x, extras)  # a bound method: Python calls it faster than an object
        except TreeError:
            check_params(self, params, state)  # the full list, also where a child was not run by `run`
            raise
        except (AttributeError, TypeError) as error:
            if not isinstance(error, PureError):
                raise_unless_tensor(self, x, error)
            raise
        if type(extras) is Reading and not extras.complete and not run.ran_all():
            extras.complete = True
        return y, {**state, **run.new_state} if state or run.new_state else {}

    def __call__(self, params: Params, x: Any, state: State = EMPTY, extras: Extras = EMPTY) -> Any:
        """Return the output in evaluation; empty `state` and `extras` may be left out."""
        plain = extras is EMPTY or extras == EMPTY
        if WATCHERS or not plain or torch.compiler.is_dynamo_compiling() or is_mapped():
            return super().__call__(params, x, state, extras)
        try:
            return self._evaluate(params, x, state, None)
        except LEAF_ERRORS:  # again, with what an error needs to say where it arose
            return super().__call__(params, x, state, extras)

    def _holds_several(self) -> bool:
        """Return whether a field holds several blocks."""
        return any(isinstance(child, Blocks) for child in self._children.values())

    @cached_property
    def _evaluate(self) -> Callable[..., Any]:
        return evaluation(self)[0]

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw each child's noise for its input's shape, found by a run on the meta device."""
        if not self.stochastic:
            return {}
        shapes: dict[str, Shape] = {}
        runner = self.runner(*specification(self), EMPTY)

        def run(name: str, value: Any, shape: Shape | None = None) -> Any:
            shapes[name] = tuple(value.shape)
            return runner(name, value, shape)

        self.combine(run, runner.params, torch.empty(x_shape, device="meta"), EMPTY)

        def draw(children: dict[str, Block], prefix: str) -> Tree:
            drawn = {}
            for name, child in children.items():
                if isinstance(child, Blocks):
                    if several := draw(child.children(), f"{prefix}{name}."):
                        drawn[name] = several
                elif child.stochastic and prefix + name in shapes:
                    drawn[name] = child.noise(shapes[prefix + name], generator, dtype=dtype, device=device)
            return drawn

        return draw(self._children, "")


def evaluation(block: Block) -> tuple[Callable[..., Any], int | None]:
    """Return a fast evaluation function of params, x, state and a shortcut's shape.

    It does what `block(params, x, state)` does but for new states, tags and the places of errors, in half the time. It
    raises wherever `apply` raises; a call then runs `apply`, for an error that says what is wrong. A leaf gives its
    `forward(params, x)` in its place, and the number of keys that its parameters must have; other blocks give None.
    """
    kind = type(block)
    if isinstance(block, Leaf) and kind.apply is Leaf.apply:
        return block.forward, len(block.leaf_names())
    if not isinstance(block, Composite) or kind.apply is not Composite.apply or block._holds_several():
        return lambda params, x, state, shape: block.apply(params, x, state)[0], None
    combine: Callable[..., Any] = block.combine
    calls = {name: evaluation(child) for name, child in block._children.items()}
    fits = hasattr(block, "fit")
    names = block._names - {name for name, (_, keys) in calls.items() if keys == 0}  # a leaf with no parameters
    stateful = frozenset(name for name, (_, keys) in calls.items() if keys is None)

    def evaluate(params: Params, x: Any, state: State, shape: Shape | None) -> Any:
        if not names.issuperset(params) or (state and not state.keys() <= stateful):
            raise TreeError("a tree that does not fit")

        # Without annotations, which would be built at every call.
        def run(name, x, shape=None):  # type: ignore[no-untyped-def]
            call, keys = calls[name]
            if keys:
                part = params[name]
                if len(part) != keys:
                    raise TreeError("a tree that does not fit")
                return call(part, x)
            if keys is None:
                return call(params.get(name, EMPTY), x, state.get(name, EMPTY) if state else EMPTY, shape)
            return call(EMPTY, x)

        return combine(run, params, x, EMPTY, shape) if fits else combine(run, params, x, EMPTY)

    return evaluate, None
