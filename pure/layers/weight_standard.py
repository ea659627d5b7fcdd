"""Weight-standardised convolutions and unit-variance activations, for nets without norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from pure.block import Params, Shape, State
from pure.errors import ArgumentError
from pure.initializers import Constant, Device
from pure.layers.activation import ActivationLike, activation
from pure.layers.alignment import widen
from pure.layers.conv import Conv2d
from pure.leaf import Leaf

__all__ = ["GAMMA", "ScaledActivation", "ScaledStdConv2d", "StdConv2d"]

GAMMA: Final[dict[str, float]] = {
    "identity": 1.0,
    "elu": 1.2716004848480225,
    "gelu": 1.7015043497085571,
    "leaky_relu": 1.70590341091156,
    "relu": 1.7139588594436646,
    "relu6": 1.7131484746932983,
    "selu": 1.0008515119552612,
    "sigmoid": 4.803835391998291,
    "silu": 1.7881293296813965,
    "softplus": 1.9203323125839233,
    "tanh": 1.5939117670059204,
}
"""1 / √Var φ(z) for z ~ N(0, 1), by name of φ, as published with 2101.08692 (estimated there by sampling)."""


@dataclass(frozen=True, repr=False)
class ScaledStdConv2d(Conv2d):
    """Conv2d with the weight gain · gamma · (w − mean w) / √(fan_in · (var w + eps)), one mean and variance a filter.

    Leaves: `weight` (out, in / groups, height, width), `bias` (out,), `gain` (out, 1, 1, 1).

    Args:
        gamma: constant that keeps the variance through the activation before the convolution; see `GAMMA`.
        eps: added to the variance of a filter.
        gain_init: every gain at first.

    The other arguments are those of `Conv2d`.

    Raises:
        ArgumentError: an eps that is not positive, and what `Conv2d` raises.

    Source: Brock et al. 2021 (2101.08692), section 4; eps inside the root as timm has it.

    Example:
        >>> conv = ScaledStdConv2d(3, 8, 3, padding=1, gamma=GAMMA["relu"])
        >>> params, _ = conv.init(torch.Generator().manual_seed(0))
        >>> conv(params, torch.zeros(2, 3, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """

    gamma: float = 1.0
    eps: float = 1e-5
    gain_init: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps <= 0:
            raise ArgumentError(f"ScaledStdConv2d eps={self.eps}: expected a positive number")

    def leaf_names(self) -> tuple[str, ...]:
        """Return the names of the parameters."""
        return (*super().leaf_names(), "gain")

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw weight and bias as `Conv2d` does; the gain is constant."""
        params, state = super().init(generator, dtype, device)
        gain = Constant(self.gain_init)((self.out_channels, 1, 1, 1), generator, dtype, device)
        return {**params, "gain": gain}, state

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the convolution with the standardised weight; statistics at least in float32."""
        weight, gain = params["weight"], params["gain"]
        wide = widen(weight)
        if gain.dtype != weight.dtype or gain.shape != (self.out_channels, 1, 1, 1):
            raise RuntimeError(f"gain {tuple(gain.shape)} {gain.dtype}")
        var, mean = torch.var_mean(wide, dim=(1, 2, 3), correction=0, keepdim=True)
        factor = gain.to(wide.dtype) * (self.gamma * wide[0].numel() ** -0.5)
        standard = ((wide - mean) * torch.rsqrt(var + self.eps) * factor).to(weight.dtype)
        return super().forward({**params, "weight": standard}, x)


@dataclass(frozen=True, repr=False)
class StdConv2d(Conv2d):
    """Conv2d with the weight (w − mean w) / √(var w + eps), one mean and variance a filter.

    Args:
        eps: added to the variance of a filter.

    The other arguments are those of `Conv2d`.

    Raises:
        ArgumentError: an eps that is not positive, and what `Conv2d` raises.

    Source: Qiao et al. 2019 (1903.10520), section 3.1, as in BiT (1912.11370).

    Example:
        >>> conv = StdConv2d(3, 8, 3, padding=1)
        >>> params, _ = conv.init(torch.Generator().manual_seed(0))
        >>> conv(params, torch.zeros(2, 3, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """

    eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps <= 0:
            raise ArgumentError(f"StdConv2d eps={self.eps}: expected a positive number")

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the convolution with the standardised weight; statistics at least in float32."""
        weight = params["weight"]
        wide = widen(weight)
        var, mean = torch.var_mean(wide, dim=(1, 2, 3), correction=0, keepdim=True)
        standard = ((wide - mean) * torch.rsqrt(var + self.eps)).to(weight.dtype)
        return super().forward({**params, "weight": standard}, x)


@dataclass(frozen=True, repr=False)
class ScaledActivation(Leaf):
    """y = factor · φ(x), with φ an activation.

    Args:
        name: of the activation, or the function.
        factor: constant behind it, such as β = 1 / √Var x in a norm-free network.

    Raises:
        ArgumentError: an unknown name.

    Source: Brock et al. 2021 (2101.08692), section 4, the scaling before the branch.

    Example:
        >>> ScaledActivation("relu", 0.5)({}, torch.tensor([[-2.0, 2.0]]))
        tensor([[0., 1.]])
    """

    name: ActivationLike
    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        activation(self.name)

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the scaled activation."""
        return activation(self.name)(x) * self.factor

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)
