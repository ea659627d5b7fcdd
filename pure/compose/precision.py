"""Mixed precision: float32 parameters, computation in a narrower dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pure import tree
from pure.block import Block, Params, Shape, State
from pure.errors import ArgumentError
from pure.initializers import Device

__all__ = ["MixedPrecision"]


@dataclass(frozen=True, repr=False)
class MixedPrecision(Block):
    """The block computed in `dtype`; its parameters, their gradients, its input and its output keep their own dtype.

    State is left as it is: statistics are never below float32.

    Args:
        block: any block.
        dtype: torch.bfloat16 or another floating-point dtype.

    Raises:
        ArgumentError: `dtype` is not a floating-point dtype.

    Source: Micikevicius et al. 2017 (1710.03740), section 3.1, master weights.

    Example:
        >>> from pure import Linear
        >>> block = MixedPrecision(Linear(3, 2), torch.bfloat16)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> params["weight"].dtype, block(params, torch.ones(1, 3)).dtype
        (torch.float32, torch.float32)
    """

    block: Block
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if not self.dtype.is_floating_point:
            raise ArgumentError(f"MixedPrecision dtype={self.dtype}: expected torch.bfloat16, torch.float16, …")

    @property
    def has_params(self) -> bool | None:
        """Whether the block has parameters."""
        return self.block.has_params

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
        """Draw what the block draws, in the wide `dtype` given here."""
        return self.block.init(generator, dtype, device)

    def apply(
        self,
        params: Params,
        x: Any,
        state: State,
        extras: Mapping[str, Any],
        training: bool = False,
        noise: Any = None,
    ) -> tuple[Any, State]:
        """Cast down, compute, cast the output back."""
        low = tree.cast(params, self.dtype)
        y, new_state = self.block.apply(low, tree.cast(x, self.dtype), state, extras, training, noise)
        wide = tree.leaves(x)[0].dtype
        return tree.cast(y, wide), new_state

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw the block's noise."""
        return self.block.noise(x_shape, generator, dtype=dtype, device=device)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the block's output shape."""
        return self.block.out_shape(x_shape)
