"""Mixed precision: float32 parameters, computation in a narrower dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pure import tree
from pure.block import EMPTY, Applied
from pure.compose.wrapper import Wrapper
from pure.errors import ArgumentError
from pure.tree import Tree

__all__ = ["MixedPrecision"]


@dataclass(frozen=True, repr=False)
class MixedPrecision(Wrapper):
    """The block computed in `dtype`; params, gradients, input and output keep their own.

    State is left as it is: statistics are never below float32.

    Args:
        block: any block.
        dtype: torch.bfloat16 or another floating-point dtype.

    Raises:
        ArgumentError: no block, or `dtype` is not a floating-point dtype.

    Source: Micikevicius et al. 2017 (1710.03740), section 3.1, master weights.

    Example:
        >>> from pure import Linear
        >>> block = MixedPrecision(Linear(3, 2), torch.bfloat16)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> params["weight"].dtype, block(params, torch.ones(1, 3)).dtype
        (torch.float32, torch.float32)
    """

    dtype: torch.dtype

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point):
            raise ArgumentError(f"MixedPrecision dtype={self.dtype}: expected torch.bfloat16, torch.float16, …")

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Cast down, compute, cast the output back."""
        low = tree.cast(params, self.dtype)
        y, new_state = super().apply(low, tree.cast(x, self.dtype), state, extras, training, noise)
        wide = next((leaf.dtype for leaf in tree.leaves(x) if leaf.is_floating_point()), torch.float32)
        return tree.cast(y, wide), new_state
