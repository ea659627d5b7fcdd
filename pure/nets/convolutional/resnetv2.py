"""ResNet, version 2: pre-activation with BatchNorm, as timm's `resnetv2`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.initializers import Constant, Normal
from pure.layers import Activation, Dropout, DropPath, GlobalAvgPool, Linear, MaxPool, ZeroPad
from pure.layers.conv import divisible
from pure.nets.convolutional.resnet import BlockName, check_choice, check_stages
from pure.skips.additive.conv_blocks import NormName, norm2d
from pure.skips.additive.preactivation import preact_basic, preact_bottleneck, preact_conv

__all__ = ["resnet_v2", "resnetv2_50"]

Stem = Literal["7x7", "7x7_zeros", "deep", "tiered"]


def _stem(name: Stem, in_channels: int, channels: int, norm: NormName, eps: float | None) -> Block:
    pool: dict[str, Block] = {"pool": MaxPool(3, 2, 1)}
    if name == "7x7_zeros":
        pool = {"pad": ZeroPad(1), "pool": MaxPool(3, 2)}
    if name in ("7x7", "7x7_zeros"):
        return Sequential(conv=preact_conv(in_channels, channels, 7, 2, eps), **pool)
    half, act = channels // 2, Activation("relu")
    narrow = 3 * channels // 8 if name == "tiered" else half
    first = {"conv1": preact_conv(in_channels, narrow, 3, 2, eps), "norm1": norm2d(norm, narrow), "act1": act}
    second = {"conv2": preact_conv(narrow, half, 3, 1, eps), "norm2": norm2d(norm, half), "act2": act}
    return Sequential(**first, **second, conv3=preact_conv(half, channels, 3, 1, eps), **pool)


def resnet_v2(
    depths: Sequence[int] = (3, 4, 6, 3),
    *,
    block: BlockName = "bottleneck",
    widths: Sequence[int] = (256, 512, 1024, 2048),
    num_classes: int = 1000,
    in_channels: int = 3,
    stem: Stem = "7x7",
    stem_channels: int = 64,
    avg_down: bool = False,
    norm: NormName = "batch",
    standard_eps: float | None = None,
    dropout: float = 0.0,
    drop_path_rate: float = 0.0,
) -> Block:
    """Return a pre-activation ResNet: stem without norm, stages, BN-relu, average, linear head.

    (batch, in_channels, height, width) → (batch, num_classes).
    Leaves: `stem.conv`, `stages.0.0.norm1`, `stages.0.0.residual.branch.conv1`, …,
    `stages.0.0.residual.shortcut.conv`, `stages.0.1.branch.norm1`, …, `norm`, `head`.

    Args:
        depths: blocks in each stage; every stage after the first halves the image.
        block: "basic" or "bottleneck".
        widths: channels of the stream in each stage; a bottleneck's 3×3 convolution has a quarter, a multiple of 8.
        num_classes: outputs of the head.
        in_channels: of the image.
        stem: "7x7", "deep" (three 3×3 convolutions) or "tiered" (the first of them narrower), each with max pooling,
            or "7x7_zeros", whose pooling is padded with zeros, as BiT's.
        stem_channels: outputs of the stem.
        avg_down: pool in front of the projection of a shortcut that strides.
        norm: "batch" or "group" (of 32 groups).
        standard_eps: standardise the weights of bottlenecks and stem (1903.10520) with that eps; None does not.
        dropout: rate in front of the head.
        drop_path_rate: of the last block; the others' rise linearly from 0.

    Raises:
        ArgumentError: an unknown name, depths and widths that do not fit, or standardised basic blocks.

    Source: He et al. 2016 (1603.05027), section 4, with timm's stride in the 3×3 convolution.

    Example:
        >>> resnet_v2((1, 1), widths=(32, 64), stem_channels=8, num_classes=5).out_shape((2, 3, 32, 32))
        (2, 5)
    """
    check_stages(depths, widths)
    check_choice("block", block, get_args(BlockName))
    check_choice("stem", stem, get_args(Stem))
    if block == "basic" and standard_eps is not None:
        raise ArgumentError("standard_eps is an option of block='bottleneck'")
    rates = iter(DropPath.linear(drop_path_rate, sum(depths)))
    stages: list[Block] = []
    channels = stem_channels
    for number, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        blocks: list[Block] = []
        for index in range(depth):
            stride = 2 if index == 0 and number > 0 else 1
            options: dict[str, Any] = {"pooled": avg_down, "drop_path": next(rates), "norm": norm}
            if block == "bottleneck":
                options |= {"hidden": divisible(width / 4), "project": index == 0, "standard_eps": standard_eps}
            make = preact_basic if block == "basic" else preact_bottleneck
            blocks.append(make(channels, width, stride, **options))
            channels = width
        stages.append(Sequential(*blocks))
    drop: dict[str, Block] = {"drop": Dropout(dropout)} if dropout else {}
    return Sequential(
        stem=_stem(stem, in_channels, stem_channels, norm, standard_eps),
        stages=Sequential(*stages),
        norm=norm2d(norm, channels),
        act=Activation("relu"),
        pool=GlobalAvgPool(),
        **drop,
        head=Linear(channels, num_classes, weight_init=Normal(0.0, 0.01), bias_init=Constant(0.0)),
    )


def resnetv2_50(**options: Any) -> Block:
    """Return the pre-activation ResNet-50: 25,549,352 parameters; options as for `resnet_v2`."""
    return resnet_v2((3, 4, 6, 3), **options)
