"""Image norms: over the channels at each position, and of channel responses over space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import Params, Shape, State
from pure.errors import ArgumentError, RankError, ShapeError
from pure.initializers import Constant, Device, check_generator
from pure.layers.alignment import along, fits, narrow, widen
from pure.layers.distances import vector_norm
from pure.layers.norm_kernels import layer_norm
from pure.leaf import Leaf, describe

__all__ = ["ChannelNorm", "ChannelRMSNorm", "GlobalResponseNorm"]


@dataclass(frozen=True, repr=False)
class _Gains(Leaf):
    """A norm with one `weight` and `bias` value per channel; statistics at least in float32."""

    channels: int
    eps: float = 1e-6

    @property
    def start(self) -> float:
        """The weight at first."""
        return 1.0

    def leaf_names(self) -> tuple[str, ...]:
        """Return the names of the parameters."""
        return ("weight", "bias")

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Return the constant start; nothing is drawn."""
        check_generator(generator)
        values = {"weight": self.start, "bias": 0.0}
        rules = {name: Constant(values[name]) for name in self.leaf_names()}
        return {name: rule((self.channels,), generator, dtype, device) for name, rule in rules.items()}, {}

    def widened(self, params: Params, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return input, weight and bias, at least in float32."""
        for name, leaf in params.items():
            if not fits(leaf, x) or leaf.shape != (self.channels,):
                raise RuntimeError(f"{name} {describe(leaf)}")
        return widen(x), widen(params["weight"]), widen(params["bias"])

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)


@dataclass(frozen=True, repr=False)
class ChannelNorm(_Gains):
    """(x − mean) / √(var + eps) · weight + bias over axis 1 of (batch, channels, *space), at each position alone.

    It is `LayerNorm` of the last axis with the channels moved there and back. Leaves: `weight`, `bias` (channels,).

    Args:
        channels: size of axis 1.
        eps: added to the variance.

    Raises:
        RankError: the input has no channel axis.
        ShapeError: axis 1 is not `channels`.

    Source: Liu et al. 2022 (2201.03545), section 2.6; Ba et al. 2016 (1607.06450), equation 4.

    Example:
        >>> params, _ = ChannelNorm(4).init(torch.Generator())
        >>> ChannelNorm(4)(params, torch.arange(8.0).reshape(1, 4, 2)).mean(1).abs().max() < 1e-6
        tensor(True)
    """

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the normalised `x`."""
        if x.ndim < 2:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, {self.channels}, *space)")
        wide, weight, bias = self.widened(params, x)
        y = layer_norm(wide.movedim(1, -1), (self.channels,), weight, bias, self.eps)
        return narrow(y.movedim(-1, 1), x)


@dataclass(frozen=True, repr=False)
class ChannelRMSNorm(_Gains):
    """x / √(mean(x²) + eps) · weight over axis 1 of (batch, channels, *space), at each position alone.

    Leaf: `weight` (channels,).

    Args:
        channels: size of axis 1.
        eps: added to the mean square.
        variance: divide by the unbiased variance over the channels instead of the mean square (timm's SimpleNorm).

    Raises:
        RankError: the input has no channel axis.
        ShapeError: axis 1 is not `channels`.

    Source: Zhang and Sennrich 2019 (1910.07467), equation 4.

    Example:
        >>> params, _ = ChannelRMSNorm(2, eps=0.0).init(torch.Generator())
        >>> ChannelRMSNorm(2, eps=0.0)(params, torch.tensor([[[1.0], [7.0]]])).flatten()
        tensor([0.2000, 1.4000])
    """

    variance: bool = False

    def leaf_names(self) -> tuple[str, ...]:
        """Return the name of the parameter."""
        return ("weight",)

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the normalised `x`."""
        if x.ndim < 2:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, {self.channels}, *space)")
        weight = params["weight"]
        if not fits(weight, x) or weight.shape != (self.channels,):
            raise RuntimeError(f"weight {describe(weight)}")
        if x.shape[1] != self.channels:
            raise ShapeError(f"{self}: input {describe(x)}, expected {self.channels} channels on axis 1")
        wide = widen(x)
        square = wide.var(1, keepdim=True) if self.variance else wide.square().mean(1, keepdim=True)
        y: Tensor = wide * torch.rsqrt(square + self.eps) * along(widen(weight), wide, 1)
        return narrow(y, x)


@dataclass(frozen=True, repr=False)
class GlobalResponseNorm(_Gains):
    """y = x + γ ⊙ x · n + β with n_c = ‖x_c‖ / (mean over channels of ‖x_c‖ + eps), the norms taken over space.

    Channels compete: one whose response is above the average is raised. Leaves: `weight` γ, `bias` β (channels,).

    Args:
        channels: size of the channel axis.
        eps: added to the mean norm.
        axis: of the channels: −1 for (batch, *space, channels), 1 for (batch, channels, *space).

    Raises:
        ArgumentError: another axis.
        RankError: the input has no spatial axis.
        ShapeError: the channel axis is not `channels`.

    Source: Woo et al. 2023 (2301.00808), section 3, algorithm 1.

    Example:
        >>> params, _ = GlobalResponseNorm(4).init(torch.Generator())
        >>> GlobalResponseNorm(4)(params, torch.ones(1, 2, 2, 4)).sum()
        tensor(16.)
    """

    axis: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.axis not in (1, -1):
            raise ArgumentError(f"GlobalResponseNorm axis={self.axis!r}: expected −1 or 1")

    @property
    def start(self) -> float:
        """Zero: the block is the identity at first."""
        return 0.0

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the normalised `x`."""
        if x.ndim < 3:
            raise RankError(f"{self}: input {describe(x)}, expected a batch axis, spatial axes and {self.channels}")
        if x.shape[self.axis] != self.channels:
            raise ShapeError(f"{self}: input {describe(x)}, expected {self.channels} channels on axis {self.axis}")
        wide, weight, bias = self.widened(params, x)
        axis = self.axis % x.ndim
        space = tuple(dim for dim in range(1, x.ndim) if dim != axis)
        norms = vector_norm(wide, space, keepdim=True)
        relative = norms / (norms.mean(axis, keepdim=True) + self.eps)
        return (wide + (along(bias, x, axis) + along(weight, x, axis) * (wide * relative))).to(x.dtype)
