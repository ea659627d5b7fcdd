"""The same block many times, with stacked parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pure import tree
from pure.block import EMPTY, Applied, Block, Extras, Params, Shape, State, check_params, no_block
from pure.compose.chain import Named, Sequential
from pure.compose.wrapper import as_pairs
from pure.errors import ArgumentError, PureError, TreeError
from pure.initializers import Device, check_generator
from pure.scan_loop import loops, scan
from pure.tags import WATCHERS, capturing, scope
from pure.tree import Tree
from pure.tree.stacking import stack_drawn

__all__ = ["LOOPED_FROM", "Repeat"]

LOOPED_FROM = 4
"""The depth from which a file holds a Repeat as a loop; fewer blocks are written out, which runs faster."""

ANY = "*"
"""The name of the block at every depth, where a loop is recorded."""


def replace_field(block: Block, path: str, value: Any) -> Block:
    """Return `block` with the field at a dotted path replaced, such as "branch.drop.rate"."""
    head, _, rest = path.partition(".")
    if isinstance(block, Named) and head in block.children():
        if not rest:
            raise ArgumentError(f"vary {path!r}: names a whole child, expected one of its fields")
        items = tuple((name, replace_field(b, rest, value) if name == head else b) for name, b in block.items)
        return dataclasses.replace(block, items=items)
    fields = [field.name for field in dataclasses.fields(block) if not field.name.startswith("_")]
    if head not in fields:
        raise ArgumentError(f"vary {path!r}: {type(block).__name__} has no field {head!r}, expected one of {fields}")
    return dataclasses.replace(block, **{head: replace_field(getattr(block, head), rest, value) if rest else value})


@dataclass(frozen=True, repr=False)
class Repeat(Block):
    """The same block `depth` times in a row, params and state stacked along a new first axis.

    One leaf a parameter, whatever the depth: cheap to differentiate, to map, to save, and to export. From depth 4 on an
    exported file, of a transform too, holds the block once and loops: depth 10 gives as many nodes as depth 1,000. The
    blocks are written out one by one below that depth, with `vary`, where the block changes its input's structure,
    shape or dtype, and where something is captured.

    Args:
        block: the block; its output must have its input's shape.
        depth: how many times.
        vary: per-depth numbers, {dotted field: one value a depth}; kept as a tuple of pairs.

    Raises:
        ArgumentError: no block, depth below 1, or a varied field of another length than `depth`.
        TreeError: leaves that are not stacked `depth` deep.

    Example:
        >>> from pure.layers import Linear
        >>> net = Repeat(Linear(4, 4), 3)
        >>> params, _ = net.init(torch.Generator().manual_seed(0))
        >>> params["weight"].shape, net(params, torch.zeros(2, 4)).shape
        (torch.Size([3, 4, 4]), torch.Size([2, 4]))
    """

    block: Block
    depth: int
    vary: Any = ()
    _chain: Sequential = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.block, Block):
            raise no_block(f"Repeat of {type(self.block).__name__}", self.block)
        if not isinstance(self.depth, int) or self.depth < 1:
            raise ArgumentError(f"Repeat depth={self.depth}: expected a whole number, at least 1")
        pairs = as_pairs(self.vary, "Repeat vary")
        for name, values in pairs:
            if not isinstance(values, Iterable):
                raise ArgumentError(
                    f"Repeat vary {name!r}: {values!r}, expected one value a depth, {self.depth} in all"
                )
        vary = tuple((name, tuple(values)) for name, values in pairs)
        object.__setattr__(self, "vary", vary)
        blocks = [self.block] * self.depth
        for name, values in vary:
            if len(values) != self.depth:
                raise ArgumentError(f"Repeat vary {name!r} has {len(values)} values for depth {self.depth}")
            blocks = [replace_field(block, name, value) for block, value in zip(blocks, values, strict=True)]
        object.__setattr__(self, "_chain", Sequential(*blocks))

    def children(self) -> dict[str, Block]:
        """Return the block at each depth by position; their params are slices of the stack."""
        return self._chain.children()

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw each depth in turn, as unrolled blocks are, into its slice of the stack."""
        check_generator(generator)
        blocks = list(self.children().values())

        def draw(depth: int) -> dict[str, Any]:
            params, state = blocks[depth].init(generator, dtype, device)
            return {"params": params, "state": state}

        drawn = stack_drawn(draw, self.depth)
        return drawn["params"], drawn["state"]

    def _slices(self, stacked: Any, what: str, axis: int = 0) -> dict[str, Any]:
        """Return the tree of each depth by its position."""
        if not stacked:
            return EMPTY
        try:
            parts = tree.unstack(stacked, axis)
        except TreeError:
            if what == "params":
                check_params(self, stacked)
            raise
        if len(parts) != self.depth:
            raise TreeError(f"Repeat: {what} is stacked {len(parts)} deep, expected depth {self.depth}")
        return {str(depth): part for depth, part in enumerate(parts)}

    def apply(
        self, params: Tree, x: Any, state: Tree = EMPTY, extras: Tree = EMPTY, training: bool = False, noise: Any = None
    ) -> Applied:
        """Return the last block's output and the stacked new state."""
        if WATCHERS and self._loops() and (looped := self._looped(params, x, state, extras, training, noise or {})):
            return looped
        noises = self._slices(noise, "noise", 1) if noise else None
        slices = self._slices(params, "params"), x, self._slices(state, "state")
        y, new_state = self._chain.apply(*slices, extras, training, noises)
        return y, tree.stack(list(new_state.values())) if new_state else {}

    def _loops(self) -> bool:
        """Return whether to be recorded as a loop."""
        return self.depth >= LOOPED_FROM and not self.vary and loops() and not capturing()

    def _looped(
        self, params: Params, x: Any, state: State, extras: Extras, training: bool, noise: Any
    ) -> tuple[Any, State] | None:
        """Return `apply`'s result by a scan; None if it raises, so that a loop names the block."""
        try:
            by_depth = tree.tree_map(lambda leaf: leaf.movedim(1, 0), noise)
            stacked = {"params": params, "state": state, "noise": by_depth}

            def step(x: Any, part: Mapping[str, Any]) -> tuple[Any, State]:
                with scope(ANY):
                    return self.block.apply(part["params"], x, part["state"], extras, training, part["noise"] or None)

            return scan(step, x, stacked, self.depth)
        except PureError:
            return None

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw the noise of every depth, stacked along axis 1; ones where a depth draws none.

        Raises:
            TreeError: the noise of the depths differs in shape.
        """
        if not self.stochastic:
            return {}
        drawn = []
        for block in self.children().values():
            drawn.append(block.noise(x_shape, generator, dtype=dtype, device=device))
            x_shape = block.out_shape(x_shape)
        flat = [tree.flatten(noise) for noise in drawn]
        ones = {name: torch.ones_like(leaf) for noise in flat for name, leaf in noise.items()}
        return tree.stack([tree.unflatten({**ones, **noise}) for noise in flat], dim=1)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape, which every block must keep."""
        return tuple(x_shape)
