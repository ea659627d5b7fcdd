"""ResNet, version 1, as in torchvision and timm, with its ResNeXt, wide, -D and SE forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.layers import Activation, AvgPool, BlurPool, Conv2d, Dropout, DropPath, GlobalAvgPool, Linear, MaxPool
from pure.layers.conv import divisible
from pure.skips.additive.conv_blocks import (
    HE,
    Antialias,
    NormName,
    StrideIn,
    basic_block,
    bottleneck,
    conv3x3,
    norm2d,
    projection,
)

__all__ = [
    "resnet18",
    "resnet18d",
    "resnet34",
    "resnet50",
    "resnet50d",
    "resnet101",
    "resnet152",
    "resnet_v1",
    "resnext50_32x4d",
    "seresnet50",
    "wide_resnet50_2",
    "wide_resnet101_2",
]

BlockName = Literal["basic", "bottleneck"]
Stem = Literal["7x7", "deep", "tiered", "3x3"]
StemPool = Literal["max", "conv"]


def check_stages(depths: Sequence[int], widths: Sequence[int]) -> None:
    """Raise unless there is one positive depth and one width per stage."""
    if not depths or len(depths) != len(widths) or min(depths) < 1:
        raise ArgumentError(
            f"depths={tuple(depths)}, widths={tuple(widths)}: expected one positive depth and one width a stage"
        )


def check_choice(what: str, given: str, choices: tuple[str, ...]) -> None:
    """Raise unless `given` is one of `choices`."""
    if given not in choices:
        raise ArgumentError(f"{what}={given!r}: expected one of {', '.join(choices)}")


def _stem(
    name: Stem, in_channels: int, channels: int, norm: NormName, antialias: Antialias | None, pool: StemPool
) -> dict[str, Block]:
    act = Activation("relu")
    half = channels // 2
    conv1: Block = Conv2d(in_channels, channels, 7, 2, 3, bias=False, weight_init=HE)
    if name == "3x3":
        conv1 = conv3x3(in_channels, channels)
    if name in ("deep", "tiered"):
        narrow = 3 * (half // 4) if name == "tiered" else half
        first = conv3x3(in_channels, narrow, 2), norm2d(norm, narrow), act
        conv1 = Sequential(*first, conv3x3(narrow, half), norm2d(norm, half), act, conv3x3(half, channels))
    parts = {"conv1": conv1, "bn1": norm2d(norm, channels), "act1": act}
    if name == "3x3":
        return parts
    maxpool: Block = MaxPool(3, 2, 1)
    if pool == "conv":
        maxpool = Sequential(conv3x3(channels, channels, 2), norm2d(norm, channels), act)
    elif antialias == "avg":
        maxpool = AvgPool(2)
    elif antialias == "blur":
        maxpool = Sequential(MaxPool(3, 1, 1), BlurPool(2))
    return {**parts, "maxpool": maxpool}


def resnet_v1(
    depths: Sequence[int] = (3, 4, 6, 3),
    *,
    block: BlockName = "bottleneck",
    widths: Sequence[int] = (64, 128, 256, 512),
    num_classes: int = 1000,
    in_channels: int = 3,
    groups: int = 1,
    width_per_group: int = 64,
    stem: Stem = "7x7",
    stem_channels: int = 64,
    stride_in: StrideIn = "3x3",
    avg_down: bool = False,
    squeeze: bool | float = False,
    zero_gamma: bool = False,
    norm: NormName = "batch",
    antialias: Antialias | None = None,
    stem_pool: StemPool = "max",
    dropout: float = 0.0,
    drop_path_rate: float = 0.0,
) -> Block:
    """Return a ResNet: stem, stages of residual blocks, global average, linear head.

    (batch, in_channels, height, width) → (batch, num_classes).
    Leaves: `conv1`, `bn1`, `layer1.0.branch.conv1`, …, `layer1.0.shortcut.conv`, …, `fc`.

    Args:
        depths: blocks in each stage; every stage after the first halves the image.
        block: "basic" or "bottleneck", whose output is four times its width.
        widths: of each stage.
        num_classes: outputs of the head.
        in_channels: of the image.
        groups: of the bottleneck's 3×3 convolution (ResNeXt).
        width_per_group: channels of a group where `widths` is 64; 128 with one group is Wide ResNet-50-2.
        stem: "7x7" with max pooling, "deep" (three 3×3 convolutions with max pooling, ResNet-C and -D), "tiered" (the
            same, the first one narrower, timm's -T), or "3x3" without stride or pooling, for small images.
        stem_channels: outputs of the stem.
        stride_in: where a bottleneck strides: "3x3" (version 1.5, as both libraries), or "1x1" (the paper).
        avg_down: pool in front of the projection of a shortcut that strides (ResNet-D).
        squeeze: end each branch in squeeze-and-excitation; a number is its hidden width over the branch's, else 1/16.
        zero_gamma: start the last BatchNorm of each branch at γ = 0.
        norm: "batch" or "group" (of 32 groups).
        antialias: what strides in place of strided convolutions and of the stem's pooling: "avg" or "blur".
        stem_pool: "max", or "conv", a strided 3×3 convolution with norm and relu in its place (ResNet-RS).
        dropout: rate in front of the head.
        drop_path_rate: of the last block; the others' rise linearly from 0.

    Raises:
        ArgumentError: an unknown name, or depths and widths that do not fit; groups with basic blocks.

    Source: He et al. 2015 (1512.03385), table 1; He et al. 2018 (1812.01187), figures 1 and 2; Zhang 2019 (1904.11486);
    Bello et al. 2021 (2103.07579).

    Example:
        >>> net = resnet_v1((1, 1), block="basic", widths=(8, 16), stem_channels=8, num_classes=5)
        >>> net.out_shape((2, 3, 32, 32))
        (2, 5)
    """
    check_stages(depths, widths)
    check_choice("block", block, get_args(BlockName))
    check_choice("stem", stem, get_args(Stem))
    check_choice("stem_pool", stem_pool, get_args(StemPool))
    if avg_down and norm != "batch":
        raise ArgumentError(f"avg_down=True, norm={norm!r}: expected norm='batch' with pooled shortcuts")
    if block == "basic" and (groups, width_per_group, stride_in) != (1, 64, "3x3"):
        raise ArgumentError("groups, width_per_group and stride_in are options of block='bottleneck'")
    rates = iter(DropPath.linear(drop_path_rate, sum(depths)))
    stages: dict[str, Block] = {}
    channels = stem_channels
    for number, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        out = width if block == "basic" else 4 * width
        blocks: list[Block] = []
        for index in range(depth):
            stride = 2 if index == 0 and number > 1 else 1
            options: dict[str, Any] = {
                "shortcut": projection(channels, out, stride, pooled=True)
                if avg_down and (stride != 1 or channels != out)
                else None,
                "squeeze": _hidden(squeeze, out),
                "zero_gamma": zero_gamma,
                "norm": norm,
                "antialias": antialias,
                "drop_path": next(rates),
            }
            if block == "bottleneck":
                hidden = int(width * (width_per_group / 64)) * groups
                options |= {"hidden": hidden, "groups": groups, "stride_in": stride_in}
            make = basic_block if block == "basic" else bottleneck
            blocks.append(make(channels, out, stride, **options))
            channels = out
        stages[f"layer{number}"] = Sequential(*blocks)
    drop: dict[str, Block] = {"drop": Dropout(dropout)} if dropout else {}
    head = {"pool": GlobalAvgPool(), **drop, "fc": Linear(channels, num_classes)}
    first = _stem(stem, in_channels, stem_channels, norm, antialias, stem_pool)
    return Sequential(**first, **stages, **head)


def _hidden(squeeze: bool | float, channels: int) -> int | None:
    """Return the hidden width of squeeze-and-excitation: None for none, 0 for its default."""
    if isinstance(squeeze, bool):
        return 0 if squeeze else None
    return divisible(channels * squeeze, keep=0.0)


def resnet18(**options: Any) -> Block:
    """Return ResNet-18: 11,689,512 parameters; options as for `resnet_v1`."""
    return resnet_v1((2, 2, 2, 2), block="basic", **options)


def resnet34(**options: Any) -> Block:
    """Return ResNet-34: 21,797,672 parameters; options as for `resnet_v1`."""
    return resnet_v1((3, 4, 6, 3), block="basic", **options)


def resnet50(**options: Any) -> Block:
    """Return ResNet-50 (version 1.5): 25,557,032 parameters; options as for `resnet_v1`."""
    return resnet_v1((3, 4, 6, 3), **options)


def resnet101(**options: Any) -> Block:
    """Return ResNet-101 (version 1.5): 44,549,160 parameters; options as for `resnet_v1`."""
    return resnet_v1((3, 4, 23, 3), **options)


def resnet152(**options: Any) -> Block:
    """Return ResNet-152 (version 1.5): 60,192,808 parameters; options as for `resnet_v1`."""
    return resnet_v1((3, 8, 36, 3), **options)


def resnext50_32x4d(**options: Any) -> Block:
    """Return ResNeXt-50 of 32 groups of 4 channels (Xie et al. 2016, 1611.05431).

    25,028,904 parameters; options as for `resnet_v1`.
    """
    return resnet_v1((3, 4, 6, 3), **{"groups": 32, "width_per_group": 4, **options})


def wide_resnet50_2(**options: Any) -> Block:
    """Return ResNet-50 with 3×3 convolutions twice as wide (1605.07146).

    68,883,240 parameters; options as for `resnet_v1`.
    """
    return resnet_v1((3, 4, 6, 3), **{"width_per_group": 128, **options})


def wide_resnet101_2(**options: Any) -> Block:
    """Return ResNet-101 with 3×3 convolutions twice as wide (1605.07146).

    126,886,696 parameters; options as for `resnet_v1`.
    """
    return resnet_v1((3, 4, 23, 3), **{"width_per_group": 128, **options})


def resnet18d(**options: Any) -> Block:
    """Return ResNet-18-D as timm has it (last γ initially zero).

    11,708,744 parameters; options as for `resnet_v1`.
    """
    return resnet18(**{"stem": "deep", "avg_down": True, "zero_gamma": True, **options})


def resnet50d(**options: Any) -> Block:
    """Return ResNet-50-D (1812.01187) as timm has it (last γ initially zero).

    25,576,264 parameters; options as for `resnet_v1`.
    """
    return resnet50(**{"stem": "deep", "avg_down": True, "zero_gamma": True, **options})


def seresnet50(**options: Any) -> Block:
    """Return SE-ResNet-50 (1709.01507) as timm has it (last γ initially zero).

    28,088,024 parameters; options as for `resnet_v1`.
    """
    return resnet50(**{"squeeze": True, "zero_gamma": True, **options})
