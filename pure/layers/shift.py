"""A learnt offset: one value, or one a feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pure.block import Params
from pure.layers.scale import PerFeature

__all__ = ["Shift"]


@dataclass(frozen=True, repr=False)
class Shift(PerFeature):
    """y = x + b with b learnt: one value, or one a feature; the counterpart of `Scale`.

    Leaf: `bias`, of shape () or (features,).

    Args:
        features: size of the axis that b runs along; None for one value.
        value: every b at first.
        axis: the axis of `features`: −1 for (batch, …, features), 1 for (batch, channels, *space).

    Raises:
        ShapeError: the input's axis is not `features`.

    Source: Zhang et al. 2019 (1901.09321), section 3, rule 3, where scalar biases stand in for a norm's.

    Example:
        >>> import torch
        >>> params, _ = Shift(value=0.5).init(torch.Generator())
        >>> Shift(value=0.5)(params, torch.ones(1, 3))
        tensor([[1.5000, 1.5000, 1.5000]])
    """

    value: float = 0.0

    leaf: ClassVar[str] = "bias"

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return x + b."""
        y: Tensor = x + self.fitted(params, x)
        return y
