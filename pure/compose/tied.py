"""A head that shares its weight with the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F

from pure.block import Block, Extras, Params
from pure.composite import Composite, Run
from pure.errors import ArgumentError

__all__ = ["TiedHead"]


@dataclass(frozen=True, repr=False)
class TiedHead(Composite):
    """y = body(x) Wᵀ, W the `weight` of the embedding inside the body: one tensor, stored once.

    The gradient of W is the sum over both uses.

    Args:
        body: a block that embeds tokens and returns (batch, tokens, features).
        embedding: name of the child of `body` whose weight (count, features) is the head's too.

    Raises:
        ArgumentError: a body without such a child.

    Source: Press and Wolf 2017 (1608.05859), section 3.

    Example:
        >>> import torch
        >>> from pure import Sequential, tree
        >>> from pure.layers import Linear
        >>> from pure.layers.embedding import Embedding
        >>> block = TiedHead(Sequential(embedding=Embedding(10, 4), fc=Linear(4, 4)))
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.tensor([[1, 2, 3]])).shape, tree.names(params)[0]
        (torch.Size([1, 3, 10]), 'body.embedding.weight')
    """

    body: Block
    embedding: str = "embedding"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding not in self.body.children():
            raise ArgumentError(
                f"TiedHead embedding={self.embedding!r}: expected a child of the body, one of "
                f"{', '.join(self.body.children())}"
            )

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the logits."""
        return F.linear(run("body", x), params["body"][self.embedding]["weight"])
