"""A learnt factor: one for the whole stream, or one a feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pure.block import Params, Shape, State
from pure.errors import ShapeError
from pure.initializers import Constant, Device, check_generator
from pure.layers.alignment import along, fits
from pure.leaf import Leaf, describe

__all__ = ["PerFeature", "Scale"]


@dataclass(frozen=True, repr=False)
class PerFeature(Leaf):
    """Base of `Scale` and `Shift`: one learnt value, or one per feature, in the leaf `leaf`.

    Args:
        features: size of the axis that the values run along; None for one value.
        value: every value at first.
        axis: the axis of `features`: −1 for (batch, …, features), 1 for (batch, channels, *space).

    Raises:
        ShapeError: the input's axis is not `features`.
    """

    features: int | None = None
    value: float = 1.0
    axis: int = -1

    leaf: ClassVar[str]

    def leaf_names(self) -> tuple[str, ...]:
        """Return the name of the parameter."""
        return (self.leaf,)

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Return the constant start; nothing is drawn."""
        shape = () if self.features is None else (self.features,)
        return {self.leaf: Constant(self.value)(shape, check_generator(generator), dtype, device)}, {}

    def fitted(self, params: Params, x: Tensor) -> Tensor:
        """Return the parameter in a shape that broadcasts with `x`."""
        value: Tensor = params[self.leaf]
        if not fits(value, x) or value.shape != (() if self.features is None else (self.features,)):
            raise RuntimeError(f"{self.leaf} {describe(value)}")
        if self.features is None:
            return value
        if x.shape[self.axis] != self.features:
            raise ShapeError(f"{self}: input {describe(x)}, expected {self.features} features on axis {self.axis}")
        return along(value, x, self.axis)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)


@dataclass(frozen=True, repr=False)
class Scale(PerFeature):
    """y = γ ⊙ x with γ learnt: one value, or one a feature.

    With a small or zero start at the end of a branch this is ReZero or SkipInit (one value) and LayerScale (one a
    feature): `Residual(Sequential(f=branch, scale=Scale(features, 1e-5)))`.

    Leaf: `weight`, of shape () or (features,).

    Args:
        features: size of the axis that γ runs along; None for one value.
        value: every γ at first.
        axis: the axis of `features`: −1 for (batch, …, features), 1 for (batch, channels, *space).

    Raises:
        ShapeError: the input's axis is not `features`.

    Source: Touvron et al. 2021 (2103.17239), equation 4; Bachlechner et al. 2020 (2003.04887), equation 1.

    Example:
        >>> params, _ = Scale(3, 0.5).init(torch.Generator())
        >>> Scale(3, 0.5)(params, torch.ones(1, 3))
        tensor([[0.5000, 0.5000, 0.5000]])
    """

    leaf: ClassVar[str] = "weight"

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return γ ⊙ x."""
        y: Tensor = x * self.fitted(params, x)
        return y
