"""The two orders of convolution, BatchNorm and activation in convolutional branches."""

from __future__ import annotations

from pure.block import Block
from pure.compose import Sequential
from pure.initializers import Initializer, KaimingUniform
from pure.layers import Activation, BatchNorm, Conv2d
from pure.layers.activation import ActivationLike

__all__ = ["conv_norm_act", "norm_act_conv"]


def _conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int, weight_init: Initializer
) -> Conv2d:
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=(kernel_size - 1) // 2,
        groups=groups,
        bias=False,
        weight_init=weight_init,
    )


def conv_norm_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    activation: ActivationLike | None = "relu",
    weight_init: Initializer = KaimingUniform(),
) -> Block:
    """Return σ(BN(w ∗ x)): leaves `conv.weight`, `norm.weight`, `norm.bias`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd; the padding keeps the size.
        stride: of the convolution.
        groups: of the convolution.
        activation: its name; None for none.
        weight_init: rule for the convolution.

    Example:
        >>> conv_norm_act(3, 8, 3, 2).out_shape((1, 3, 6, 6))
        (1, 8, 3, 3)
    """
    parts: dict[str, Block] = {
        "conv": _conv(in_channels, out_channels, kernel_size, stride, groups, weight_init),
        "norm": BatchNorm(out_channels),
    }
    return Sequential(**parts) if activation is None else Sequential(**parts, act=Activation(activation))


def norm_act_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    activation: ActivationLike = "relu",
    eps: float = 1e-5,
    weight_init: Initializer = KaimingUniform(),
) -> Block:
    """Return w ∗ σ(BN x), pre-activation: leaves `norm.weight`, `norm.bias`, `conv.weight`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd; the padding keeps the size.
        stride: of the convolution.
        groups: of the convolution.
        activation: its name.
        eps: of the norm.
        weight_init: rule for the convolution.

    Example:
        >>> norm_act_conv(3, 8, 3).out_shape((1, 3, 6, 6))
        (1, 8, 6, 6)
    """
    return Sequential(
        norm=BatchNorm(in_channels, eps=eps),
        act=Activation(activation),
        conv=_conv(in_channels, out_channels, kernel_size, stride, groups, weight_init),
    )
