"""MobileNetV2, with torchvision's indices."""

from __future__ import annotations

import math
from typing import Final

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.initializers import Constant, Initializer, KaimingNormal, Normal
from pure.layers import Activation, BatchNorm, Conv2d, Dropout, GlobalAvgPool, Linear
from pure.layers.conv import divisible
from pure.skips.additive.conv_orders import conv_norm_act
from pure.skips.additive.inverted import inverted_residual

__all__ = ["mobilenet_v2", "mobilenetv2_timm"]

Stages = tuple[tuple[int, int, int, int], ...]

STAGES: Final[Stages] = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""(expansion, channels, blocks, stride of the first) of each stage: table 2 of the paper."""


STEM_CHANNELS: Final = 32
LAST_CHANNELS: Final = 1280


def mobilenet_v2(
    width_mult: float = 1.0,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    stages: Stages = STAGES,
    stem_channels: int = 32,
    last_channels: int = 1280,
    round_nearest: int = 8,
    dropout: float = 0.2,
    weight_init: Initializer = KaimingNormal(mode="fan_out"),
) -> Block:
    """Return stem, inverted residuals, a 1×1 convolution, mean over space, dropout, classifier.

    (batch, in_channels, height, width) → (batch, num_classes); 3,504,872 parameters.

    Names: `features.0` and the last of `features` have `conv` and `norm`, each block its `branch`; `classifier.1`.

    Args:
        width_mult: factor of all channels.
        num_classes: outputs of the classifier.
        in_channels: channels of the image.
        stages: (expansion, channels, blocks, stride of the first) of each.
        stem_channels: channels of the first convolution, before the factor.
        last_channels: channels before the classifier; a factor below 1 leaves them.
        round_nearest: channels are multiples of it.
        dropout: before the classifier; 0 for none.
        weight_init: rule for the convolutions; the classifier starts normal with deviation 0.01.

    Raises:
        ArgumentError: no stages, a stage without exactly four numbers, or a stride other than 1 or 2.

    Source: Sandler et al. 2018 (1801.04381), table 2; initial values and rounding as torchvision's.

    Example:
        >>> mobilenet_v2(0.5, num_classes=5).out_shape((1, 3, 32, 32))
        (1, 5)
    """
    if not stages or any(len(stage) != 4 for stage in stages):
        raise ArgumentError(f"mobilenet_v2 stages={stages}: expected (expansion, channels, blocks, stride) of each")

    def conv(before: int, after: int, kernel_size: int, stride: int) -> Block:
        return conv_norm_act(before, after, kernel_size, stride, activation="relu6", weight_init=weight_init)

    width = divisible(stem_channels * width_mult, round_nearest)
    features = [conv(in_channels, width, 3, 2)]
    for expand, channels, depth, stride in stages:
        after = divisible(channels * width_mult, round_nearest)
        for index in range(depth):
            step = stride if index == 0 else 1
            features.append(inverted_residual(width, after, step, expand, weight_init=weight_init))
            width = after
    last = divisible(last_channels * max(1.0, width_mult), round_nearest)
    features.append(conv(width, last, 1, 1))
    classifier = Linear(last, num_classes, weight_init=Normal(std=0.01), bias_init=Constant(0.0))
    return Sequential(
        features=Sequential(*features), pool=GlobalAvgPool(), classifier=Sequential(Dropout(dropout), classifier)
    )


def mobilenetv2_timm(
    width_mult: float = 1.0,
    depth_mult: float = 1.0,
    *,
    fixed_ends: bool = False,
    num_classes: int = 1000,
    in_channels: int = 3,
    dropout: float = 0.0,
    weight_init: Initializer = KaimingNormal(mode="fan_out"),
) -> Block:
    """Return MobileNetV2 in the layout of timm, whose blocks lie in stages.

    (batch, in_channels, height, width) → (batch, num_classes); 3,504,872 parameters by default.
    Names: `conv_stem`, `bn1`, `blocks.0.0.branch`, …, `conv_head`, `bn2`, `classifier`.

    Args:
        width_mult: factor of all channels.
        depth_mult: factor of the number of blocks of a stage, rounded up.
        fixed_ends: keep the first and last stage's depth, the stem's width and the head's, whatever the factors.
        num_classes: outputs of the classifier.
        in_channels: channels of the image.
        dropout: before the classifier.
        weight_init: rule for the convolutions.

    Source: Sandler et al. 2018 (1801.04381), table 2; the factors as in timm's `mobilenetv2_110d`.

    Example:
        >>> mobilenetv2_timm(0.35, num_classes=5).out_shape((1, 3, 32, 32))
        (1, 5)
    """
    width = STEM_CHANNELS if fixed_ends else divisible(STEM_CHANNELS * width_mult)
    stem = Conv2d(in_channels, width, 3, 2, 1, bias=False, weight_init=weight_init)
    parts: dict[str, Block] = {"conv_stem": stem, "bn1": BatchNorm(width), "act1": Activation("relu6")}
    stages: list[Block] = []
    for number, (expand, channels, depth, stride) in enumerate(STAGES):
        if not (fixed_ends and number in (0, len(STAGES) - 1)):
            depth = math.ceil(depth * depth_mult)
        after = divisible(channels * width_mult)
        blocks: list[Block] = []
        for index in range(depth):
            step = stride if index == 0 else 1
            blocks.append(inverted_residual(width, after, step, expand, weight_init=weight_init))
            width = after
        stages.append(Sequential(*blocks))
    last = LAST_CHANNELS if fixed_ends else max(LAST_CHANNELS, divisible(LAST_CHANNELS * width_mult))
    parts |= {
        "blocks": Sequential(*stages),
        "conv_head": Conv2d(width, last, 1, bias=False, weight_init=weight_init),
        "bn2": BatchNorm(last),
        "act2": Activation("relu6"),
        "pool": GlobalAvgPool(),
    }
    if dropout:
        parts["drop"] = Dropout(dropout)
    return Sequential(**parts, classifier=Linear(last, num_classes, weight_init=Normal(std=0.01)))
