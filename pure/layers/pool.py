"""Pooling and flattening."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from pure.block import Params, Shape
from pure.errors import RankError
from pure.layers.conv import Sizes
from pure.leaf import Leaf, describe

__all__ = ["AvgPool", "BlurPool", "Flatten", "GlobalAvgPool", "MaxPool", "ZeroPad"]


def _spatial(x: Tensor, block: Leaf) -> int:
    """Return the number of spatial axes of (batch, channels, *space), 1 to 3."""
    if not 3 <= x.ndim <= 5:
        raise RankError(f"{block}: input {describe(x)}, expected (batch, channels, *space) with 1 to 3 spatial axes")
    return x.ndim - 2


@dataclass(frozen=True, repr=False)
class MaxPool(Leaf):
    """Maximum over windows, for one to three spatial axes.

    Args:
        kernel_size: size of the window.
        stride: step of the window; None is `kernel_size`.
        padding: on each side, filled with −∞.
        dilation: spacing within the window.
        ceil_mode: round the output size up.

    Raises:
        RankError: the input has no spatial axes, or more than three.

    Source: `torch.nn.MaxPool2d`.

    Example:
        >>> import torch
        >>> MaxPool(2)({}, torch.tensor([[[1.0, 3.0, 2.0, 0.0]]]))
        tensor([[[3., 2.]]])
    """

    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Sizes = 0
    dilation: Sizes = 1
    ceil_mode: bool = False

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the maxima."""
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[_spatial(x, self) - 1]
        stride = self.kernel_size if self.stride is None else self.stride
        return pool(x, self.kernel_size, stride, self.padding, self.dilation, self.ceil_mode)


@dataclass(frozen=True, repr=False)
class AvgPool(Leaf):
    """Mean over windows, for one to three spatial axes.

    Args:
        kernel_size: size of the window.
        stride: step of the window; None is `kernel_size`.
        padding: zeros on each side.
        ceil_mode: round the output size up.
        count_include_pad: whether padding counts in the mean.

    Raises:
        RankError: the input has no spatial axes, or more than three.

    Source: `torch.nn.AvgPool2d`.

    Example:
        >>> import torch
        >>> AvgPool(2)({}, torch.tensor([[[1.0, 3.0, 2.0, 0.0]]]))
        tensor([[[2., 1.]]])
    """

    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Sizes = 0
    ceil_mode: bool = False
    count_include_pad: bool = True

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the means."""
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[_spatial(x, self) - 1]
        stride = self.kernel_size if self.stride is None else self.stride
        return pool(x, self.kernel_size, stride, self.padding, self.ceil_mode, self.count_include_pad)


@dataclass(frozen=True, repr=False)
class BlurPool(Leaf):
    """Every `stride`-th value of x after the 3×3 binomial filter [1 2 1]ᵀ[1 2 1] / 16, borders reflected.

    Args:
        stride: step of the filter, over two spatial axes.

    Raises:
        RankError: the input is not (batch, channels, height, width).

    Source: Zhang 2019 (1904.11486), section 3.2, "Triangle-3".

    Example:
        >>> import torch
        >>> BlurPool(1)({}, torch.tensor([[[[0.0, 4.0], [0.0, 4.0]]]]))
        tensor([[[[2., 2.],
                  [2., 2.]]]])
    """

    stride: int = 2

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the blurred values: the filter is a mean over 2×2 windows, taken twice."""
        if x.ndim != 4:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, channels, height, width)")
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.avg_pool2d(F.avg_pool2d(padded, 2, 1), 2, self.stride)


@dataclass(frozen=True, repr=False)
class ZeroPad(Leaf):
    """Zeros around the spatial axes of (batch, channels, height, width).

    A `MaxPool` behind it counts them as values, unlike its own padding of −∞.

    Args:
        width: rows and columns on each side.

    Raises:
        RankError: the input is not (batch, channels, height, width).

    Source: `torch.nn.ZeroPad2d`.

    Example:
        >>> import torch
        >>> ZeroPad(1)({}, torch.ones(1, 1, 1, 1)).sum(2)
        tensor([[[0., 1., 0.]]])
    """

    width: int = 1

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the padded images."""
        if x.ndim != 4:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, channels, height, width)")
        return F.pad(x, (self.width,) * 4)


@dataclass(frozen=True, repr=False)
class GlobalAvgPool(Leaf):
    """Mean over all spatial axes: (batch, channels, *space) → (batch, channels).

    Raises:
        RankError: the input has no spatial axes, or more than three.

    Source: Lin et al. 2013 (1312.4400), section 3.2.

    Example:
        >>> import torch
        >>> GlobalAvgPool()({}, torch.tensor([[[1.0, 3.0]]]))
        tensor([[2.]])
    """

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the means."""
        dims = _spatial(x, self)
        result: Tensor = x.mean(dim=tuple(range(2, dims + 2)))
        return result

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return (batch, channels)."""
        return tuple(x_shape[:2])


@dataclass(frozen=True, repr=False)
class Flatten(Leaf):
    """Join all axes but the batch: (batch, …) → (batch, features).

    Raises:
        RankError: the input has no batch axis.

    Example:
        >>> import torch
        >>> Flatten()({}, torch.zeros(2, 3, 4)).shape
        torch.Size([2, 12])
    """

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the flat samples."""
        if x.ndim < 2:
            raise RankError(f"Flatten: input {describe(x)}, expected (batch, …): add x.unsqueeze(0)")
        result: Tensor = x.flatten(1)
        return result

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return (batch, features)."""
        return (x_shape[0], math.prod(x_shape[1:]))
