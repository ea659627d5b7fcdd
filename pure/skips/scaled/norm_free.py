"""The residual block of a network without normalisation: x + α f(β φ(x))."""

from __future__ import annotations

from typing import Final

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError, nearest
from pure.initializers import Constant, Initializer, KaimingNormal
from pure.layers import Activation, AvgPool, DropPath, Scale
from pure.layers.activation import ActivationLike, activation_name
from pure.layers.weight_standard import GAMMA, ScaledActivation, ScaledStdConv2d
from pure.skips.additive.residual import Residual

__all__ = ["norm_free_block", "norm_free_conv"]

LECUN: Final[Initializer] = KaimingNormal(nonlinearity="linear")


def norm_free_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    *,
    activation: ActivationLike = "relu",
    groups: int = 1,
    gain_init: float = 1.0,
) -> ScaledStdConv2d:
    """Return a weight-standardised convolution that keeps the size but for its stride, scaled for φ in front of it.

    Raises:
        ArgumentError: an activation without a known variance.
    """
    if not isinstance(activation, str) or activation not in GAMMA:
        name = activation_name(activation)
        raise ArgumentError(f"activation {name!r}{nearest(name, GAMMA)}: expected one of {', '.join(GAMMA)}, by name")
    return ScaledStdConv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        (kernel_size - 1) // 2,
        groups=groups,
        weight_init=LECUN,
        bias_init=Constant(0.0),
        gamma=GAMMA[activation],
        gain_init=gain_init,
    )


def norm_free_block(
    in_channels: int,
    out_channels: int,
    stride: int = 1,
    *,
    alpha: float = 0.2,
    beta: float = 1.0,
    hidden: int | None = None,
    groups: int = 1,
    activation: ActivationLike = "relu",
    skip_init: bool = False,
    drop_path: float = 0.0,
) -> Block:
    """Return x + α f(β φ(x)), f a bottleneck of weight-standardised convolutions.

    Where the shape changes the shortcut starts behind β φ(x) too, and is an average pooling and a 1×1 convolution.
    Leaves: `branch.conv1`, …, `branch.conv3`, each with `weight`, `bias` and `gain`; where the shape changes
    `residual.branch.conv1`, … and `residual.shortcut.conv`; with `skip_init` also `skip_init.weight` beside `conv3`.

    Args:
        in_channels: of the stream.
        out_channels: of the branch.
        stride: of the 3×3 convolution and of the shortcut.
        alpha: constant in front of the branch, by whose square its variance grows.
        beta: 1 / √Var x, with the variance that x has by construction.
        hidden: channels of the 3×3 convolution; None is a quarter of `out_channels`.
        groups: of the 3×3 convolution.
        activation: φ by name; one of `pure.layers.weight_standard.GAMMA`.
        skip_init: end the branch in a learnt scalar that starts at 0; without it the last gain starts at 0.
        drop_path: the probability of dropping a sample's branch in training.

    Source: Brock et al. 2021 (2101.08692), section 4; SkipInit, De and Smith 2020 (2002.10444).

    Example:
        >>> norm_free_block(8, 16, stride=2).out_shape((1, 8, 6, 6))
        (1, 16, 3, 3)
    """
    width = out_channels // 4 if hidden is None else hidden
    before: dict[str, Block] = {"act1": ScaledActivation(activation, beta)}
    branch: dict[str, Block] = {
        "conv1": norm_free_conv(in_channels, width, 1, activation=activation),
        "act2": Activation(activation),
        "conv2": norm_free_conv(width, width, 3, stride, activation=activation, groups=groups),
        "act3": Activation(activation),
        "conv3": norm_free_conv(width, out_channels, 1, activation=activation, gain_init=float(skip_init)),
    }
    if drop_path:
        branch["drop_path"] = DropPath(drop_path)
    if skip_init:
        branch["skip_init"] = Scale(value=0.0)
    if stride == 1 and in_channels == out_channels:
        return Residual(Sequential(**before, **branch), scale=alpha)
    pool: dict[str, Block] = {}
    if stride != 1:
        pool["pool"] = AvgPool(2, stride, ceil_mode=True, count_include_pad=False)
    shortcut = Sequential(**pool, conv=norm_free_conv(in_channels, out_channels, 1, activation=activation))
    return Sequential(**before, residual=Residual(Sequential(**branch), shortcut, scale=alpha))
