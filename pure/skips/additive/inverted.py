"""The inverted residual of MobileNetV2: wide inside, narrow and linear at the skip."""

from __future__ import annotations

from pure.block import Block
from pure.compose import Sequential, Tag
from pure.errors import ArgumentError
from pure.initializers import Initializer
from pure.layers import BatchNorm, Conv2d
from pure.layers.activation import ActivationLike
from pure.skips.additive.conv_blocks import HE
from pure.skips.additive.conv_orders import conv_norm_act
from pure.skips.additive.residual import Residual

__all__ = ["inverted_residual"]


def inverted_residual(
    in_channels: int,
    out_channels: int,
    stride: int = 1,
    expand: float = 6,
    *,
    activation: ActivationLike = "relu6",
    weight_init: Initializer = HE,
) -> Block:
    """Return x + project(depthwise(expand x)); without x where stride or channels change.

    The projection has no activation. Children of `branch` by position: the 1×1 expansion (none if `expand` is 1), the
    3×3 depthwise convolution, the 1×1 projection, its norm.

    Args:
        in_channels: channels of the stream.
        out_channels: channels of the new stream.
        stride: of the depthwise convolution, 1 or 2.
        expand: width of the branch over `in_channels`.
        activation: after expansion and depthwise convolution.
        weight_init: rule for the convolutions.

    Raises:
        ArgumentError: a stride other than 1 or 2, or an expansion to no channels.

    Source: Sandler et al. 2018 (1801.04381), table 1 and figure 4d.

    Example:
        >>> inverted_residual(4, 4).out_shape((1, 4, 8, 8)), inverted_residual(4, 6, 2).out_shape((1, 4, 8, 8))
        ((1, 4, 8, 8), (1, 6, 4, 4))
    """
    if stride not in (1, 2):
        raise ArgumentError(f"inverted_residual stride={stride}: expected 1 or 2")
    hidden = round(in_channels * expand)
    if hidden < 1:
        raise ArgumentError(f"inverted_residual expand={expand}: leaves no channels of {in_channels}")
    parts: list[Block] = []
    if expand != 1:
        parts.append(conv_norm_act(in_channels, hidden, activation=activation, weight_init=weight_init))
    parts += [
        conv_norm_act(hidden, hidden, 3, stride, groups=hidden, activation=activation, weight_init=weight_init),
        Conv2d(hidden, out_channels, 1, bias=False, weight_init=weight_init),
        BatchNorm(out_channels),
    ]
    branch = Sequential(*parts)
    carries = stride == 1 and in_channels == out_channels
    return Residual(branch) if carries else Sequential(branch=branch, out=Tag())
