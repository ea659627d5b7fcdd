"""The base of blocks around one other block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pure.block import EMPTY, Applied, Block, Params, Shape, State, no_block
from pure.errors import ArgumentError
from pure.initializers import Device
from pure.tree import Tree

__all__ = ["Wrapper", "as_pairs"]


def as_pairs(given: Any, what: str) -> tuple[tuple[str, Any], ...]:
    """Return a mapping, or pairs, as the tuple of pairs that a frozen block keeps.

    Raises:
        ArgumentError: something else.
    """
    try:
        return tuple(dict(given).items())
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{what}={given!r}: expected a mapping from names") from error


@dataclass(frozen=True, repr=False)
class Wrapper(Block):
    """A block that delegates to `block` everything that it does not override."""

    block: Block

    def __post_init__(self) -> None:
        if not isinstance(self.block, Block):
            raise no_block(f"{type(self).__name__} of {type(self.block).__name__}", self.block)

    @property
    def stochastic(self) -> bool:
        """Whether the block needs noise."""
        return self.block.stochastic

    def children(self) -> dict[str, Block]:
        """Return the children of the block, whose names are unchanged."""
        return self.block.children()

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw what the block draws."""
        return self.block.init(generator, dtype, device)

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return the block's output and new state."""
        return self.block.apply(params, x, state, extras, training, noise)

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw the block's noise."""
        return self.block.noise(x_shape, generator, dtype=dtype, device=device)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the block's output shape."""
        return self.block.out_shape(x_shape)
