"""Other initial values for some leaves of a block, by their names."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from pure import tree
from pure.block import Params, State
from pure.compose.wrapper import Wrapper, as_pairs
from pure.errors import ArgumentError, nearest
from pure.initializers import Device

__all__ = ["Initialize"]


@dataclass(frozen=True, repr=False)
class Initialize(Wrapper):
    """The block with some of its leaves drawn by other rules, such as a paper prescribes.

    Args:
        block: any block.
        rules: {dotted name of a leaf, or a pattern with `*`: rule of `pure.initializers`}; the first that fits is
            taken, and leaves that none fits keep the block's own rule. Kept as a tuple of pairs.

    Raises:
        ArgumentError: no block, or rules that are none; on `init`, a pattern that fits no leaf.

    Example:
        >>> from pure import Linear, Sequential
        >>> from pure.initializers import Constant
        >>> net = Sequential(Linear(2, 2), Linear(2, 2))
        >>> block = Initialize(net, {"1.weight": Constant(0.5), "*.bias": Constant()})
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> params["1"]["weight"].sum(), params["0"]["bias"]
        (tensor(2.), tensor([0., 0.]))
    """

    rules: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = as_pairs(self.rules, "Initialize rules")
        for name, rule in pairs:
            if not callable(rule):
                raise ArgumentError(f"Initialize {name!r}: {rule!r} is no rule, expected one of pure.initializers")
        object.__setattr__(self, "rules", pairs)

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw what the block draws, then the named leaves again by their rules."""
        params, state = self.block.init(generator, dtype, device)
        leaves = tree.flatten(params)
        used = set()
        for name, leaf in leaves.items():
            pattern = next((pattern for pattern, _ in self.rules if fnmatchcase(name, pattern)), None)
            if pattern is not None:
                used.add(pattern)
                leaves[name] = dict(self.rules)[pattern](tuple(leaf.shape), generator, dtype, device)
        for pattern, _ in self.rules:
            if pattern not in used:
                raise ArgumentError(
                    f"Initialize {pattern!r}: fits no leaf of {self.block}{nearest(pattern, leaves)}, or an "
                    "earlier pattern takes what it fits"
                )
        return tree.unflatten(leaves), state
