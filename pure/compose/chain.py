"""Chains: the children one after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pure.block import EMPTY, Applied, Block, Extras, Params, Shape, State
from pure.children import expected_keys, extra_keys, located, refuse, require_keys, run_child
from pure.errors import ArgumentError, PureError
from pure.initializers import Device
from pure.tags import WATCHERS
from pure.tree import Tree

__all__ = ["Named", "Sequential"]


def _named(blocks: Sequence[Block], named: Mapping[str, Block], owner: str) -> tuple[tuple[str, Block], ...]:
    """Return (name, block) pairs from positional children (named "0", "1", …) or keyword ones, never both."""
    if blocks and named:
        raise ArgumentError(f"{owner}: give positional children or named ones, not both")
    items = tuple(named.items()) if named else tuple((str(index), block) for index, block in enumerate(blocks))
    for name, block in items:
        if not name or "." in name or "/" in name:
            raise ArgumentError(f"{owner}: child name {name!r}: expected a name without '.' or '/'")
        if not isinstance(block, Block):
            raise ArgumentError(
                f"{owner}: child {name!r} is {type(block).__name__}, expected a Block: wrap it in Function"
            )
    return items


@dataclass(frozen=True, init=False, repr=False)
class Named(Block):
    """A block over an ordered set of children, given by position or by name."""

    items: tuple[tuple[str, Block], ...]
    _keys: int | None = dataclasses.field(init=False, repr=False, compare=False)
    _calls: tuple[tuple[str, Callable[..., Any], bool], ...] = dataclasses.field(init=False, repr=False, compare=False)

    def _adopt(self, blocks: Sequence[Block], named: Mapping[str, Block]) -> None:
        object.__setattr__(self, "items", _named(blocks, named, type(self).__name__))
        object.__setattr__(self, "_keys", expected_keys(dict(self.items)))
        calls = ((name, block, block.of_input()) for name, block in self.items)
        object.__setattr__(
            self, "_calls", tuple((name, f or block.__call__, f is not None) for name, block, f in calls)
        )

    def __repr__(self) -> str:
        parts = (f"{name}={block!r}" if not name.isdigit() else repr(block) for name, block in self.items)
        return f"{type(self).__name__}({', '.join(parts)})"

    @property
    def has_params(self) -> bool | None:
        """Whether any child has parameters, None where one does not say."""
        return None if self._keys is None else self._keys > 0

    def children(self) -> dict[str, Block]:
        """Return the children by name."""
        return dict(self.items)


@dataclass(frozen=True, init=False, repr=False)
class Sequential(Named):
    """The children one after another.

    Parameters of a child stand under its name: "0", "1", … for positional children.

    Raises:
        ArgumentError: positional and named children together, or a child that is no block.

    Example:
        >>> from pure import Activation, Linear, flatten
        >>> net = Sequential(fc1=Linear(3, 4), act=Activation("relu"), fc2=Linear(4, 2))
        >>> params, state = net.init(torch.Generator().manual_seed(0))
        >>> list(flatten(params))
        ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias']
    """

    def __init__(self, *blocks: Block, **named: Block) -> None:
        self._adopt(blocks, named)

    def __call__(self, params: Params, x: Any, state: State = EMPTY, extras: Extras = EMPTY) -> Any:
        """Return the last child's output."""
        if WATCHERS:
            return self.apply(params, x, state, extras)[0]
        name = ""
        try:
            if self._keys is not None and len(params) != self._keys:
                raise extra_keys(self, params)
            if state:
                for name, child in self.items:
                    x = child(params.get(name, EMPTY), x, state.get(name, EMPTY), extras)
            else:
                for name, call, of_input in self._calls:
                    x = call(x) if of_input else call(params.get(name, EMPTY), x, EMPTY, extras)
        except (PureError, KeyError) as error:
            raise located(self, name, params, state, error) from error.__cause__
        except (AttributeError, TypeError) as error:
            refuse(self, x, error)
            raise
        return x

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return the last child's output and the new states by name."""
        require_keys(self, self._keys, params)
        new_state: State = {}
        for name, child in self.items:
            x = run_child(self, name, child, params, x, state, extras, training, noise, new_state)
        return x, new_state

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw each child's noise for the shape that reaches it."""
        drawn = {}
        last = max((i for i, (_, child) in enumerate(self.items) if child.stochastic), default=-1)
        for name, child in self.items[: last + 1]:
            if child.stochastic:
                drawn[name] = child.noise(x_shape, generator, dtype=dtype, device=device)
            x_shape = child.out_shape(x_shape)
        return drawn

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the shape after the last child."""
        for _, child in self.items:
            x_shape = child.out_shape(x_shape)
        return tuple(x_shape)
