"""ConvNeXt, versions 1 and 2, in all published sizes from tiny up."""

from __future__ import annotations

from typing import Any

from pure.block import Block
from pure.compose import Sequential
from pure.initializers import Constant, Initializer, TruncatedNormal
from pure.layers import Conv2d, DropPath, GlobalAvgPool, LayerNorm, Linear
from pure.layers.channel_norm import ChannelNorm
from pure.nets.convolutional.resnet import check_stages
from pure.skips.additive.convnext import convnext_block

__all__ = [
    "convnext",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "convnextv2_base",
    "convnextv2_large",
    "convnextv2_small",
    "convnextv2_tiny",
]


def convnext(
    depths: tuple[int, ...] = (3, 3, 9, 3),
    widths: tuple[int, ...] = (96, 192, 384, 768),
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    patch_size: int = 4,
    kernel_size: int = 7,
    layer_scale: float | None = 1e-6,
    response_norm: bool = False,
    drop_path_rate: float = 0.0,
    eps: float = 1e-6,
    weight_init: Initializer = TruncatedNormal(std=0.02),
) -> Block:
    """Return patch stem, stages of ConvNeXt blocks, mean over space, norm, classifier.

    (batch, in_channels, height, width) → (batch, num_classes).
    Names: `stem.conv`, `stem.norm`, `stages.1.downsample.norm`, `stages.1.downsample.conv`,
    `stages.0.blocks.0.branch.depthwise`, `head.norm`, `head.fc`.

    Args:
        depths: blocks of each stage.
        widths: channels of each stage.
        num_classes: outputs of the classifier.
        in_channels: channels of the image.
        patch_size: kernel and stride of the stem.
        kernel_size: of the depthwise convolutions.
        layer_scale: initial value of every γ; None for no γ.
        response_norm: the global response norm of version 2.
        drop_path_rate: of the last block's branch, per sample; it rises linearly from 0 over all blocks.
        eps: of the norms.
        weight_init: rule for every weight; biases start at zero.

    Raises:
        ArgumentError: no stages, a stage of no blocks, or different numbers of depths and widths.

    Source: Liu et al. 2022 (2201.03545), section 2; Woo et al. 2023 (2301.00808), section 3.

    Example:
        >>> convnext((1, 1), (8, 16), num_classes=5).out_shape((1, 3, 32, 32))
        (1, 5)
    """
    check_stages(depths, widths)
    zero = Constant(0.0)

    def conv(before: int, after: int, size: int) -> Block:
        return Conv2d(before, after, size, stride=size, weight_init=weight_init, bias_init=zero)

    rates = iter(DropPath.linear(drop_path_rate, sum(depths)))
    stages: list[Block] = []
    for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        blocks = [
            convnext_block(
                width,
                kernel_size=kernel_size,
                layer_scale=layer_scale,
                response_norm=response_norm,
                drop_path=next(rates),
                eps=eps,
                weight_init=weight_init,
            )
            for _ in range(depth)
        ]
        parts: dict[str, Block] = {}
        if index:
            before = widths[index - 1]
            parts["downsample"] = Sequential(norm=ChannelNorm(before, eps=eps), conv=conv(before, width, 2))
        stages.append(Sequential(**parts, blocks=Sequential(*blocks)))
    return Sequential(
        stem=Sequential(conv=conv(in_channels, widths[0], patch_size), norm=ChannelNorm(widths[0], eps=eps)),
        stages=Sequential(*stages),
        head=Sequential(
            pool=GlobalAvgPool(),
            norm=LayerNorm(widths[-1], eps=eps),
            fc=Linear(widths[-1], num_classes, weight_init=weight_init, bias_init=zero),
        ),
    )


def _version2(depths: tuple[int, ...], widths: tuple[int, ...], options: dict[str, Any]) -> Block:
    return convnext(depths, widths, **{"layer_scale": None, "response_norm": True, **options})


def convnext_tiny(**options: Any) -> Block:
    """Return ConvNeXt-T: 28,589,128 parameters; options as for `convnext`."""
    return convnext((3, 3, 9, 3), (96, 192, 384, 768), **options)


def convnext_small(**options: Any) -> Block:
    """Return ConvNeXt-S: 50,223,688 parameters; options as for `convnext`."""
    return convnext((3, 3, 27, 3), (96, 192, 384, 768), **options)


def convnext_base(**options: Any) -> Block:
    """Return ConvNeXt-B: 88,591,464 parameters; options as for `convnext`."""
    return convnext((3, 3, 27, 3), (128, 256, 512, 1024), **options)


def convnext_large(**options: Any) -> Block:
    """Return ConvNeXt-L: 197,767,336 parameters; options as for `convnext`."""
    return convnext((3, 3, 27, 3), (192, 384, 768, 1536), **options)


def convnextv2_tiny(**options: Any) -> Block:
    """Return ConvNeXt V2-T: 28,635,496 parameters; options as for `convnext`."""
    return _version2((3, 3, 9, 3), (96, 192, 384, 768), options)


def convnextv2_small(**options: Any) -> Block:
    """Return ConvNeXt V2-S: 50,318,440 parameters; options as for `convnext`."""
    return _version2((3, 3, 27, 3), (96, 192, 384, 768), options)


def convnextv2_base(**options: Any) -> Block:
    """Return ConvNeXt V2-B: 88,717,800 parameters; options as for `convnext`."""
    return _version2((3, 3, 27, 3), (128, 256, 512, 1024), options)


def convnextv2_large(**options: Any) -> Block:
    """Return ConvNeXt V2-L: 197,956,840 parameters; options as for `convnext`."""
    return _version2((3, 3, 27, 3), (192, 384, 768, 1536), options)
