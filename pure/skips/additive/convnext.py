"""The ConvNeXt block, of both versions."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.initializers import Constant, Initializer, TruncatedNormal
from pure.layers import Activation, Conv2d, DropPath, LayerNorm, Linear, Scale
from pure.layers.axes import MoveAxis
from pure.layers.channel_norm import ChannelNorm, ChannelRMSNorm, GlobalResponseNorm
from pure.skips.additive.residual import Residual

__all__ = ["ChannelNormName", "channel_norm", "convnext_block"]

ChannelNormName = Literal["layer", "rms", "simple"]


def convnext_block(
    channels: int,
    *,
    kernel_size: int = 7,
    expansion: float = 4,
    layer_scale: float | None = 1e-6,
    response_norm: bool = False,
    convolutional: bool = False,
    norm: ChannelNormName = "layer",
    drop_path: float = 0.0,
    eps: float = 1e-6,
    weight_init: Initializer = TruncatedNormal(std=0.02),
) -> Block:
    """Return x + DropPath(γ ⊙ W₂ N(gelu(W₁ LN(depthwise x)))), N the identity or a GRN.

    Version 1 has γ and no N, version 2 (`layer_scale=None, response_norm=True`) has N and no γ. Leaves under `branch`:
    `depthwise`, `norm`, `fc1`, `grn`, `fc2`, `scale`.

    Args:
        channels: of the stream.
        kernel_size: odd, of the depthwise convolution.
        expansion: width of the hidden layer over `channels`.
        layer_scale: every γ at first; None for none.
        response_norm: whether there is an N.
        convolutional: whether W₁ and W₂ are 1×1 convolutions, (out, in, 1, 1), as in timm's small networks.
        norm: "layer", or with `convolutional` also "rms" or "simple" (variance in place of the mean square).
        drop_path: of the branch, a sample.
        eps: of the norms.
        weight_init: rule for every weight; biases start at zero.

    Raises:
        ArgumentError: an unknown norm, or another one than "layer" without `convolutional`.

    Source: Liu et al. 2022 (2201.03545), figure 4; Woo et al. 2023 (2301.00808), figure 5.

    Example:
        >>> convnext_block(4).out_shape((1, 4, 9, 9))
        (1, 4, 9, 9)
    """
    zero = Constant(0.0)
    hidden = int(expansion * channels)
    rules: dict[str, Any] = {"weight_init": weight_init, "bias_init": zero}
    padding = (kernel_size - 1) // 2
    parts: dict[str, Block] = {
        "depthwise": Conv2d(channels, channels, kernel_size, padding=padding, groups=channels, **rules)
    }
    axis = 1 if convolutional else -1
    response: dict[str, Block] = {"grn": GlobalResponseNorm(hidden, eps=1e-6, axis=axis)} if response_norm else {}
    if convolutional:
        parts |= {"norm": channel_norm(norm, channels, eps), "fc1": Conv2d(channels, hidden, 1, **rules)}
        parts |= {"act": Activation("gelu"), **response, "fc2": Conv2d(hidden, channels, 1, **rules)}
    elif norm != "layer":
        raise ArgumentError(f"convnext_block norm={norm!r}: expected convolutional=True with it, or norm='layer'")
    else:
        parts |= {"last": MoveAxis(1, -1), "norm": LayerNorm(channels, eps=eps)}
        parts |= {"fc1": Linear(channels, hidden, **rules), "act": Activation("gelu"), **response}
        parts |= {"fc2": Linear(hidden, channels, **rules), "first": MoveAxis(-1, 1)}
    if layer_scale is not None:
        parts["scale"] = Scale(channels, layer_scale, axis=1)
    if drop_path:
        parts["drop"] = DropPath(drop_path)
    return Residual(Sequential(**parts))


def channel_norm(name: ChannelNormName, channels: int, eps: float = 1e-6) -> Block:
    """Return the norm over axis 1 of (batch, channels, height, width) of that name.

    Raises:
        ArgumentError: an unknown name.
    """
    if name not in get_args(ChannelNormName):
        raise ArgumentError(f"norm={name!r}: expected one of {', '.join(get_args(ChannelNormName))}")
    if name == "layer":
        return ChannelNorm(channels, eps=eps)
    return ChannelRMSNorm(channels, eps=eps, variance=name == "simple")
