"""Chains: the children one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pure.block import Block, Extras, Params, Shape, no_block
from pure.composite import Composite, Run
from pure.errors import ArgumentError
from pure.initializers import Device

__all__ = ["Named", "Sequential"]


def _named(blocks: Sequence[Block], named: Mapping[str, Any], owner: str) -> tuple[tuple[str, Block], ...]:
    """Return (name, block) pairs of positional children (named "0", "1", …) or keyword ones."""
    if blocks and named:
        raise ArgumentError(f"{owner}: give positional children or named ones, not both")
    if named.keys() == {"items"} and isinstance(named["items"], tuple):  # the field, as dataclasses.replace gives it
        named = dict(named["items"])
    items = tuple(named.items()) if named else tuple((str(index), block) for index, block in enumerate(blocks))
    for name, block in items:
        if not name or "." in name or "/" in name:
            raise ArgumentError(f"{owner}: child name {name!r}: expected a name without '.' or '/'")
        if not isinstance(block, Block):
            raise no_block(f"{owner}: child {name!r} is {type(block).__name__}", block)
    return items


@dataclass(frozen=True, init=False, repr=False)
class Named(Composite):
    """A block over ordered children, given by position or by name (any key of a tree)."""

    items: tuple[tuple[str, Block], ...]

    def __init__(self, /, *blocks: Block, **named: Block) -> None:
        object.__setattr__(self, "items", _named(blocks, named, type(self).__name__))
        self.__post_init__()

    def __repr__(self) -> str:
        parts = (f"{name}={block!r}" if not name.isdigit() else repr(block) for name, block in self.items)
        return f"{type(self).__name__}({', '.join(parts)})"

    def parts(self) -> dict[str, Block]:
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

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the last child's output."""
        for name in self._children:
            x = run(name, x)
        return x

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
