"""A table of a block: every child with its output shape and number of parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pure import tree
from pure.block import EMPTY, Block, Shape, specification
from pure_export_shared import html_text

__all__ = ["Summary", "summary"]


@dataclass(frozen=True)
class Row:
    """One leaf of the parameter or state tree."""

    name: str
    shape: Shape
    count: int
    kind: str


@dataclass(frozen=True)
class Summary:
    """What a block holds and gives; printing it gives the table.

    Attributes:
        block: the block as text.
        in_shape: the input's shape.
        out_shape: the output's shape.
        rows: one row a leaf, parameters and then state.
        parameters: number of values in the parameters.
    """

    block: str
    in_shape: Shape
    out_shape: Shape
    rows: tuple[Row, ...]
    parameters: int

    def __str__(self) -> str:
        width = max([len(row.name) for row in self.rows] + [4])
        lines = [f"{row.name:<{width}}  {row.kind:<6}  {row.shape!s:<22}{row.count:>12,}" for row in self.rows]
        total = f"{self.in_shape} → {self.out_shape}, {self.parameters:,} parameters"
        return "\n".join([*lines, total])

    def _repr_html_(self) -> str:
        return html_text(str(self))

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain data."""
        return {
            "block": self.block,
            "in_shape": list(self.in_shape),
            "out_shape": list(self.out_shape),
            "parameters": self.parameters,
            "leaves": [{"name": r.name, "shape": list(r.shape), "count": r.count, "kind": r.kind} for r in self.rows],
        }


def summary(block: Block, x_shape: Shape) -> Summary:
    """Return a table of a block's leaves, counts and output shape; nothing is allocated.

    Args:
        block: any block.
        x_shape: the input's shape, batch axis first.

    Example:
        >>> from pure.layers import Linear
        >>> print(summary(Linear(3, 4), (2, 3)))
        weight  params  (4, 3)                          12
        bias    params  (4,)                             4
        (2, 3) → (2, 4), 16 parameters
    """
    params, state = specification(block)
    rows = [
        Row(name, tuple(leaf.shape), leaf.numel(), kind)
        for kind, part in (("params", params), ("state", state or EMPTY))
        for name, leaf in tree.flatten(part).items()
        if isinstance(leaf, torch.Tensor)
    ]
    return Summary(repr(block), tuple(x_shape), tuple(block.out_shape(x_shape)), tuple(rows), tree.count(params))
