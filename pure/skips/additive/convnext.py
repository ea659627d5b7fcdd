"""The ConvNeXt block, of both versions."""

from __future__ import annotations

from pure.block import Block
from pure.compose import Sequential
from pure.initializers import Constant, Initializer, TruncatedNormal
from pure.layers import Activation, Conv2d, DropPath, LayerNorm, Linear, Scale
from pure.layers.axes import MoveAxis
from pure.layers.channel_norm import GlobalResponseNorm
from pure.skips.additive.residual import Residual

__all__ = ["convnext_block"]


def convnext_block(
    channels: int,
    *,
    kernel_size: int = 7,
    expansion: float = 4,
    layer_scale: float | None = 1e-6,
    response_norm: bool = False,
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
        drop_path: of the branch, a sample.
        eps: of the norms.
        weight_init: rule for every weight; biases start at zero.

    Source: Liu et al. 2022 (2201.03545), figure 4; Woo et al. 2023 (2301.00808), figure 5.

    Example:
        >>> convnext_block(4).out_shape((1, 4, 9, 9))
        (1, 4, 9, 9)
    """
    zero = Constant(0.0)
    hidden = int(expansion * channels)
    parts: dict[str, Block] = {
        "depthwise": Conv2d(
            channels,
            channels,
            kernel_size,
            padding=(kernel_size - 1) // 2,
            groups=channels,
            weight_init=weight_init,
            bias_init=zero,
        ),
        "last": MoveAxis(1, -1),
        "norm": LayerNorm(channels, eps=eps),
        "fc1": Linear(channels, hidden, weight_init=weight_init, bias_init=zero),
        "act": Activation("gelu"),
    }
    if response_norm:
        parts["grn"] = GlobalResponseNorm(hidden, eps=1e-6)
    parts["fc2"] = Linear(hidden, channels, weight_init=weight_init, bias_init=zero)
    parts["first"] = MoveAxis(-1, 1)
    if layer_scale is not None:
        parts["scale"] = Scale(channels, layer_scale, axis=1)
    if drop_path:
        parts["drop"] = DropPath(drop_path)
    return Residual(Sequential(**parts))
