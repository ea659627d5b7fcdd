"""Mixture of depths: a block that only the most needy tokens of each sequence go through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import Block, Extras, Params, Shape
from pure.composite import Composite, Run
from pure.errors import ArgumentError, RankError, ShapeError
from pure.leaf import describe
from pure.skips.dynamic.ranking import largest
from pure.tags import tag, watching

__all__ = ["MixtureOfDepths"]


@dataclass(frozen=True, repr=False)
class MixtureOfDepths(Composite):
    """yᵢ = xᵢ + rᵢ · f(X)ᵢ for the k tokens of largest router weight rᵢ, else yᵢ = xᵢ; X holds those k tokens alone.

    The k tokens stay in their order, so that a causal f stays causal among them; f sees them as positions 0 … k − 1.
    k does not depend on the data: the work saved is the same for every sequence, and no condition is needed. Which
    tokens are chosen depends on the whole sequence. Of equal weights, as of padding, the earlier token's counts as the
    larger.

    Tags: "gate" (1 where a token is chosen, (batch, tokens)), "branch" (rᵢ f(X)ᵢ, (batch, k, features)), "stream" (y).

    Args:
        branch: f, a block that keeps the shape of (batch, k, features), without the skip.
        router: a block that gives one weight a token: (batch, tokens, 1), such as `Linear(features, 1, bias=False)`.
        capacity: k.

    Raises:
        ArgumentError: a capacity below 1.
        RankError: the input is not (batch, tokens, features).
        ShapeError: fewer tokens than the capacity, or a branch or router of another shape.

    Source: Raposo et al. 2024 (2404.02258), equation 1.

    Example:
        >>> from pure.layers import Linear
        >>> block = MixtureOfDepths(Linear(4, 4), Linear(4, 1, bias=False), capacity=2)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 5, 4)).shape
        torch.Size([2, 5, 4])
    """

    branch: Block
    router: Block
    capacity: int

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ArgumentError(f"MixtureOfDepths capacity={self.capacity}: expected at least one token")
        super().__post_init__()

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return y."""
        if x.ndim != 3:
            raise RankError(f"MixtureOfDepths: input {describe(x)}, expected (batch, tokens, features)")
        if x.shape[1] < self.capacity:
            raise ShapeError(
                f"MixtureOfDepths: {x.shape[1]} tokens for a capacity of {self.capacity}: lower the capacity"
            )
        weights = run("router", x)
        if weights.ndim != 3 or weights.shape[2] != 1:
            raise ShapeError(
                f"MixtureOfDepths: router {describe(weights)}, expected one weight a token: (…, tokens, 1)"
            )
        chosen: Tensor = largest(weights, self.capacity, 1)[1].sort(1).values
        rows = chosen.expand(-1, -1, x.shape[2])
        picked = x.gather(1, rows)
        f = run("branch", picked)
        if f.shape != picked.shape:
            raise ShapeError(f"MixtureOfDepths: branch {tuple(f.shape)} for {tuple(picked.shape)}: it keeps the shape")
        if watching():
            tag(torch.zeros_like(weights).scatter(1, chosen, torch.ones_like(weights))[..., 0], "gate", kind="gate")
        added = tag(weights.gather(1, chosen) * f, "branch", kind="branch")
        return tag(x.scatter(1, rows, picked + added), "stream")
