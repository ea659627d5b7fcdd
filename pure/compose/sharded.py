"""A block whose parameters are held in parts by the ranks of a process group."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Applied, Block, Params, Shape, State, specification
from pure.compose.wrapper import Wrapper
from pure.errors import TreeError
from pure.initializers import Device
from pure.spmd.mapping import shard_map
from pure.spmd.process_group import Group, resolve
from pure.spmd.reductions import gather
from pure.tree import Tree

__all__ = ["Sharded"]


@lru_cache(maxsize=4096)
def _shapes(block: Block) -> dict[str, Shape]:
    """Return the shape of each leaf by dotted name."""
    return {name: tuple(leaf.shape) for name, leaf in tree.flatten(specification(block)[0]).items()}


@dataclass(frozen=True, repr=False)
class Sharded(Wrapper):
    """A block of which each rank holds a part of every parameter; they are put together where the block runs.

    A leaf of n values is held as ⌈n / W⌉ of them a rank, flat and filled up with zeros. Running the block gathers its
    leaves in one message, and a gradient comes back as the rank's part of the sum over ranks. So parameters, gradients
    and the optimiser's state take 1/W of the memory, and elementwise optimisers such as `optim.sgd` and `optim.adamw`
    work on the parts. A backward pass keeps the leaves of the blocks that it has not come back to. State is not split.

    Run it inside of `spmd.shard_map` with the parameters among the sharded arguments. Wrap each block of a network, as
    in `Sequential(*map(Sharded, blocks))` or `Repeat(Sharded(block), 12)`.

    Args:
        block: the block.
        group: the ranks that hold the parts: a process group, or "world".

    Raises:
        GroupError: it is drawn or run without a process group, or run outside of `spmd.shard_map`.
        TreeError: other leaves than the rank's parts.

    Source: Rajbhandari et al. 2020 (1910.02054), section 5, stage 3.

    Example:
        >>> from pure import Linear, Sequential, Sharded
        >>> Sequential(Sharded(Linear(784, 256)), Sharded(Linear(256, 10)))
        Sequential(Sharded(block=Linear(in_features=784, out_features=256)),
        Sharded(block=Linear(in_features=256, out_features=10)))
    """

    group: Group = "world"

    def children(self) -> dict[str, Block]:
        """Return nothing: the blocks inside run on whole leaves, not on what `params` holds."""
        return {}

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw what the block draws, and keep this rank's part; every rank must give the same seed."""
        params, state = self.block.init(generator, dtype, device)
        return self.split(params), state

    def split(self, params: Tree) -> Params:
        """Return this rank's part of the block's own parameters."""
        ranks = resolve(self.group)

        def part(leaf: Tensor) -> Tensor:
            each = math.ceil(leaf.numel() / ranks.size)
            own = leaf.flatten()[ranks.rank * each : (ranks.rank + 1) * each]
            return torch.cat([own, own.new_zeros(each - len(own))])

        parts: Params = tree.tree_map(part, params)
        return parts

    def join(self, params: Tree) -> Params:
        """Return the block's own parameters, on every rank, for a file or another block; all ranks call it.

        Raises:
            TreeError: other leaves than the rank's parts.
        """
        whole: Params = shard_map(self._whole, sharded=0, out="same", group=self.group)(params)
        return whole

    def _whole(self, parts: Tree) -> Params:
        ranks = resolve(self.group)
        shapes = _shapes(self.block)
        flat = tree.flatten(parts)
        lengths = {name: math.ceil(math.prod(shape) / ranks.size) for name, shape in shapes.items()}
        given = {name: tuple(leaf.shape) for name, leaf in flat.items()}
        if given != {name: (length,) for name, length in lengths.items()}:
            raise TreeError(
                f"{self}: given leaves {given}, expected one part a leaf of lengths {lengths}: split the block's own "
                "parameters by Sharded(block).split(params)"
            )
        if not flat:
            return {}
        dtypes = {leaf.dtype for leaf in flat.values()}
        found: dict[str, Tensor] = {}
        for dtype in sorted(dtypes, key=str):
            names = [name for name in flat if flat[name].dtype == dtype]
            rows = gather(torch.cat([flat[name] for name in names])[None], self.group)
            for name, columns in zip(names, rows.split([lengths[name] for name in names], dim=1), strict=True):
                found[name] = columns.reshape(-1)[: math.prod(shapes[name])].reshape(shapes[name])
        return tree.unflatten({name: found[name] for name in shapes})

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Put the parameters together and run the block."""
        return self.block.apply(self._whole(params), x, state, extras, training, noise)
