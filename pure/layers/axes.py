"""Layers that only move values about: axes to other places, and maps to a larger size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from pure.block import Params, Shape
from pure.errors import ArgumentError, RankError
from pure.layers.resizing import resize
from pure.leaf import Leaf, describe

__all__ = ["MoveAxis", "Upsample"]


@dataclass(frozen=True, repr=False)
class MoveAxis(Leaf):
    """Move one axis to another place: `MoveAxis(1, -1)` puts the channels last.

    Args:
        source: the axis.
        destination: where it goes; the others keep their order.

    Raises:
        ArgumentError: the batch axis, 0, on either side.

    Example:
        >>> import torch
        >>> MoveAxis(1, -1)({}, torch.zeros(2, 3, 4, 5)).shape
        torch.Size([2, 4, 5, 3])
    """

    source: int
    destination: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 in (self.source, self.destination):
            raise ArgumentError(f"{self}: axis 0 is the batch and stays: expected other axes")

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the view."""
        result: Tensor = x.movedim(self.source, self.destination)
        return result


@dataclass(frozen=True, repr=False)
class Upsample(Leaf):
    """Every spatial size times `scale`, for (batch, channels, *space) with 1 to 3 spatial axes.

    Args:
        scale: factor of the sizes.
        mode: "nearest" repeats values, "linear" interpolates (bilinear, trilinear).

    Raises:
        ArgumentError: a scale below 1, or an unknown mode.
        RankError: an input without spatial axes.

    Example:
        >>> import torch
        >>> Upsample(2)({}, torch.tensor([[[1.0, 2.0]]]))
        tensor([[[1., 1., 2., 2.]]])
    """

    scale: int = 2
    mode: Literal["nearest", "linear"] = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale < 1 or self.mode not in ("nearest", "linear"):
            raise ArgumentError(f"{self}: expected a scale of at least 1 and mode 'nearest' or 'linear'")

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the larger map."""
        if not 3 <= x.ndim <= 5:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, channels, *space) with 1 to 3 spatial axes")
        return resize(x, [size * self.scale for size in x.shape[2:]], self.mode)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the shape with larger spatial sizes."""
        return (*x_shape[:2], *(size * self.scale for size in x_shape[2:]))
