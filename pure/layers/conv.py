"""Convolutions in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.block import Params, State
from pure.errors import ArgumentError, RankError
from pure.initializers import Device, Initializer, KaimingUniform
from pure.layers.linear import default_bias
from pure.leaf import Leaf, describe

__all__ = ["Conv1d", "Conv2d", "Conv3d", "divisible"]


def divisible(channels: float, divisor: int = 8, keep: float = 0.9) -> int:
    """Return the multiple of `divisor` nearest to `channels`, at least `divisor` and at least `keep` · `channels`.

    The rule by which MobileNet and its successors, and timm, round the widths of scaled networks.

    >>> divisible(30), divisible(11), divisible(11, keep=0.0)
    (32, 16, 8)
    """
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < keep * channels else nearest


Sizes = int | tuple[int, ...]


def spread(value: Sizes, dims: int, what: str) -> tuple[int, ...]:
    """Return one number per dimension from one number or from a tuple of `dims` numbers."""
    sizes = (value,) * dims if isinstance(value, int) else tuple(value)
    if len(sizes) != dims:
        raise ArgumentError(f"{what}={value!r}: expected one integer or {dims} of them")
    return sizes


@dataclass(frozen=True, repr=False)
class _Conv(Leaf):
    """The part that all ranks share: leaves, initial values, checks.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one number, or one a dimension.
        stride: likewise.
        padding: likewise, or "same" (stride 1) or "valid".
        dilation: likewise.
        groups: how many groups the channels are split into.
        bias: whether there is a bias.
        weight_init: rule for the weight.
        bias_init: rule for the bias; None is uniform within 1/√fan_in.

    Raises:
        ArgumentError: a size of the wrong length, or channels that `groups` does not divide.
        RankError: the input does not have exactly the batch, channel and spatial axes.
        ShapeError: the input has other channels than `in_channels`.
    """

    in_channels: int
    out_channels: int
    kernel_size: Sizes
    stride: Sizes = 1
    padding: Sizes | Literal["same", "valid"] = 0
    dilation: Sizes = 1
    groups: int = 1
    bias: bool = True
    weight_init: Initializer = KaimingUniform()
    bias_init: Initializer | None = None

    dims: ClassVar[int]
    function: ClassVar[Callable[..., Tensor]]

    def __post_init__(self) -> None:
        super().__post_init__()
        for what in ("kernel_size", "stride", "dilation"):
            spread(getattr(self, what), self.dims, what)
        if not isinstance(self.padding, str):
            spread(self.padding, self.dims, "padding")
        elif self.padding not in ("same", "valid"):
            raise ArgumentError(
                f"padding={self.padding!r}: expected 'same', 'valid', one integer or {self.dims} of them"
            )
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ArgumentError(
                f"groups={self.groups} divides neither or only one of in_channels={self.in_channels} "
                f"and out_channels={self.out_channels}: expected a divisor of both"
            )

    def leaf_names(self) -> tuple[str, ...]:
        """Return the names of the parameters."""
        return ("weight", "bias") if self.bias else ("weight",)

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw the weight (out, in / groups, *kernel), then the bias (out,)."""
        kernel = spread(self.kernel_size, self.dims, "kernel_size")
        shape = (self.out_channels, self.in_channels // self.groups, *kernel)
        params: Params = {"weight": self.weight_init(shape, generator, dtype, device)}
        if self.bias:
            rule = self.bias_init or default_bias(shape)
            params["bias"] = rule((self.out_channels,), generator, dtype, device)
        return params, {}

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the convolution of (batch, in_channels, *space)."""
        if x.ndim != self.dims + 2:
            axes = ", ".join(("batch", str(self.in_channels), *"DHW"[3 - self.dims :]))
            raise RankError(
                f"{type(self).__name__}: input {describe(x)}, expected ({axes}); one sample: x.unsqueeze(0)"
            )
        weight, bias = params["weight"], params["bias"] if self.bias else None
        if weight.shape[0] != self.out_channels or weight.shape[2:] != spread(
            self.kernel_size, self.dims, "kernel_size"
        ):
            raise RuntimeError(f"weight {tuple(weight.shape)}")
        return type(self).function(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True, repr=False)
class Conv1d(_Conv):
    """Convolution over (batch, channels, length); arguments, leaves and initial values of `torch.nn.Conv1d`.

    Example:
        >>> Conv1d(3, 8, 3, padding=1).out_shape((2, 3, 5))
        (2, 8, 5)
    """

    dims: ClassVar[int] = 1
    function: ClassVar[Callable[..., Tensor]] = F.conv1d


@dataclass(frozen=True, repr=False)
class Conv2d(_Conv):
    """Convolution over (batch, channels, height, width); arguments, leaves and initial values of `torch.nn.Conv2d`.

    Example:
        >>> params, _ = Conv2d(3, 8, 3, padding=1).init(torch.Generator().manual_seed(0))
        >>> Conv2d(3, 8, 3, padding=1)(params, torch.zeros(2, 3, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """

    dims: ClassVar[int] = 2
    function: ClassVar[Callable[..., Tensor]] = F.conv2d


@dataclass(frozen=True, repr=False)
class Conv3d(_Conv):
    """Convolution over (batch, channels, depth, height, width); as `torch.nn.Conv3d`.

    Example:
        >>> Conv3d(3, 8, (1, 3, 3)).out_shape((2, 3, 4, 5, 5))
        (2, 8, 4, 3, 3)
    """

    dims: ClassVar[int] = 3
    function: ClassVar[Callable[..., Tensor]] = F.conv3d
