"""A learnt offset: one value, or one a feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import Params, Shape, State
from pure.errors import ShapeError
from pure.initializers import Constant, Device, check_generator
from pure.leaf import Leaf, describe

__all__ = ["Shift"]


@dataclass(frozen=True, repr=False)
class Shift(Leaf):
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
        >>> params, _ = Shift(value=0.5).init(torch.Generator())
        >>> Shift(value=0.5)(params, torch.ones(1, 3))
        tensor([[1.5000, 1.5000, 1.5000]])
    """

    features: int | None = None
    value: float = 0.0
    axis: int = -1

    def leaf_names(self) -> tuple[str, ...]:
        """Return the name of the parameter."""
        return ("bias",)

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Return the constant start; nothing is drawn."""
        shape = () if self.features is None else (self.features,)
        return {"bias": Constant(self.value)(shape, check_generator(generator), dtype, device)}, {}

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return x + b."""
        bias: Tensor = params["bias"]
        if bias.dtype != x.dtype or bias.shape != (() if self.features is None else (self.features,)):
            raise RuntimeError(f"bias {describe(bias)}")
        if self.features is None:
            return x + bias
        if x.shape[self.axis] != self.features:
            raise ShapeError(f"{self}: input {describe(x)}, expected {self.features} features on axis {self.axis}")
        trailing = x.ndim - 1 - self.axis % x.ndim
        return x + bias.reshape(bias.shape + (1,) * trailing)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)
