"""Reading one vector off a sequence of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pure.block import Params, Shape
from pure.errors import RankError
from pure.leaf import Leaf, describe

__all__ = ["FirstToken"]


@dataclass(frozen=True, repr=False)
class FirstToken(Leaf):
    """y = x[:, 0]: the first token, the sequence's summary in BERT and ViT.

    Raises:
        RankError: the input is not (batch, tokens, features).

    Source: Devlin et al. 2018 (1810.04805), section 3, the [CLS] token.

    Example:
        >>> import torch
        >>> FirstToken()({}, torch.zeros(2, 5, 4)).shape
        torch.Size([2, 4])
    """

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the first token."""
        if x.ndim != 3:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, tokens, features)")
        first: Tensor = x[:, 0]
        return first

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return (batch, features)."""
        return (x_shape[0], *x_shape[2:])
