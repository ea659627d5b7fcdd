"""Parallel branches on one input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pure.block import Block, Extras, Params
from pure.compose.chain import Named
from pure.composite import Run
from pure.errors import ArgumentError, ShapeError

__all__ = ["Parallel"]

Join = Literal["sum", "mean", "product", "concat"]


@dataclass(frozen=True, init=False, repr=False)
class Parallel(Named):
    """All children on the same input, their outputs joined.

    Args:
        blocks: positional children, named "0", "1", ….
        join: "sum", "mean", "product", or "concat" along axis 1.
        named: named children.

    Raises:
        ArgumentError: an unknown `join`, or no children.
        ShapeError: outputs whose shapes differ (for "concat": but for axis 1).

    Example:
        >>> from pure.layers import Activation
        >>> Parallel(Activation("relu"), Activation("identity"), join="sum")({}, torch.ones(1, 2))
        tensor([[2., 2.]])
    """

    join: Join

    def __init__(self, /, *blocks: Block, join: Join = "sum", **named: Block) -> None:
        if join not in get_args(Join):
            raise ArgumentError(f"Parallel join={join!r}: expected one of {', '.join(get_args(Join))}")
        if not blocks and not named:
            raise ArgumentError("Parallel of no children: give at least one block")
        object.__setattr__(self, "join", join)
        super().__init__(*blocks, **named)

    def __repr__(self) -> str:
        inner = super().__repr__()
        return inner if self.join == "sum" else f"{inner[:-1]}, join={self.join!r})"

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Tensor:
        """Return the joined outputs."""
        return self._joined([run(name, x) for name, _ in self.items])

    def _joined(self, outs: list[Tensor]) -> Tensor:
        free = (1,) if self.join == "concat" else ()
        shapes = [tuple(out.shape) for out in outs]
        kept = [tuple(n for axis, n in enumerate(shape) if axis not in free) for shape in shapes]
        if any(sizes != kept[0] for sizes in kept):  # compared, not hashed: a symbolic size has no hash
            given = ", ".join(f"{name}: {shape}" for (name, _), shape in zip(self.items, shapes, strict=True))
            raise ShapeError(
                f"Parallel join={self.join!r}: outputs {given} do not fit: make the branches' shapes agree"
            )
        if self.join == "concat":
            return torch.cat(outs, 1)
        if self.join == "product":
            return reduce(torch.mul, outs)
        total = reduce(torch.add, outs)
        return total / len(outs) if self.join == "mean" else total
