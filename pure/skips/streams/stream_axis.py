"""Several residual streams in one tensor: (batch, n, …), the streams on axis 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pure.block import Block, Params, Shape, check_params
from pure.composite import Composite
from pure.errors import ArgumentError, DtypeError, RankError
from pure.layers.alignment import align, fits
from pure.leaf import Leaf, describe, other_dtype

__all__ = ["Collapse", "Expand", "Stack", "owned", "weighted_sum"]

Join = Literal["sum", "mean"]


@dataclass(frozen=True, repr=False)
class Expand(Leaf):
    """Copy the input into n streams: (batch, …) becomes (batch, n, …).

    Args:
        streams: n.

    Raises:
        ArgumentError: `streams` below 1.

    Source: Zhu et al. 2024 (2409.19606), section 2.1.

    Example:
        >>> Expand(3)({}, torch.ones(2, 5)).shape
        torch.Size([2, 3, 5])
    """

    streams: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.streams < 1:
            raise ArgumentError(f"Expand streams={self.streams}: expected at least 1")

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the copies."""
        return torch.stack([x] * self.streams, 1)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return (batch, n, …)."""
        return (x_shape[0], self.streams, *x_shape[1:])


@dataclass(frozen=True, repr=False)
class Collapse(Leaf):
    """Add the streams up again: (batch, n, …) becomes (batch, …).

    Args:
        join: "sum", or "mean", which leaves the scale of the stream as it was before `Expand`.

    Raises:
        ArgumentError: an unknown `join`.
        RankError: an input without an axis of streams.

    Source: Zhu et al. 2024 (2409.19606), section 2.1.

    Example:
        >>> Collapse()({}, torch.ones(1, 3, 2))
        tensor([[3., 3.]])
    """

    join: Join = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.join not in get_args(Join):
            raise ArgumentError(f"Collapse join={self.join!r}: expected one of {', '.join(get_args(Join))}")

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the sum or mean over axis 1."""
        if x.ndim < 3:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, streams, …): put Expand in front")
        return x.sum(1) if self.join == "sum" else x.mean(1)


@dataclass(frozen=True, repr=False)
class Stack(Composite):
    """Base of networks that keep earlier outputs: children "0", "1", … and a rule over depth.

    Raises:
        ArgumentError: no blocks, or one that is no Block.
    """

    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        wrong = [block for block in self.blocks if not isinstance(block, Block)]
        if wrong or not self.blocks:
            raise ArgumentError(
                f"{type(self).__name__} of {wrong or 'no blocks'}: expected at least one Block: wrap it in Function"
            )
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the blocks by their position."""
        return {str(index): block for index, block in enumerate(self.blocks)}


def owned(block: Block, params: Params, name: str, shape: Sequence[int], x: Tensor) -> Tensor:
    """Return a block's own leaf by its dotted name, or raise a tree error.

    Raises:
        TreeError: the leaf is missing or has another shape.
        DtypeError: the leaf has another dtype than the input.
    """
    node: Any = params
    for key in name.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    if node is None or tuple(node.shape) != tuple(shape):
        check_params(block, params)
    leaf: Tensor = node
    if not fits(leaf, x):
        raise DtypeError(f"{type(block).__name__}: {other_dtype(x.dtype, name, leaf.dtype)}")
    return leaf


def weighted_sum(weights: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Return Σ wⱼ vⱼ for weights (n,) and n tensors of one shape.

    >>> weighted_sum(torch.tensor([1.0, 2.0]), [torch.ones(2), torch.ones(2)])
    tensor([3., 3.])
    """
    stacked = torch.stack(list(values))
    return (stacked * align(weights, stacked)).sum(0)
