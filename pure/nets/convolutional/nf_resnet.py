"""Normaliser-free ResNet, as timm's `nf_resnet`: standardised weights, scaled branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pure.block import Block
from pure.compose import Sequential
from pure.initializers import Constant, Normal
from pure.layers import Activation, Dropout, DropPath, GlobalAvgPool, Linear, MaxPool
from pure.layers.activation import ActivationLike
from pure.layers.conv import divisible
from pure.nets.convolutional.resnet import check_stages
from pure.skips.scaled.norm_free import norm_free_block, norm_free_conv

__all__ = ["nf_resnet50", "norm_free_resnet"]


def norm_free_resnet(
    depths: Sequence[int] = (3, 4, 6, 3),
    *,
    widths: Sequence[int] = (256, 512, 1024, 2048),
    num_classes: int = 1000,
    in_channels: int = 3,
    stem_channels: int = 64,
    alpha: float = 0.2,
    activation: ActivationLike = "relu",
    skip_init: bool = False,
    dropout: float = 0.0,
    drop_path_rate: float = 0.0,
) -> Block:
    """Return an NF-ResNet: stem, stages of x + α f(β φ(x)), φ, global average, linear head.

    (batch, in_channels, height, width) → (batch, num_classes).
    Block i > 0 of a stage has β = 1 / √(1 + i α²): the projection in block 0, whose own β comes from the stage before,
    resets the variance to 1, and each block adds α².
    Leaves: `stem`, `stages.0.0.residual.branch.conv1`, …, `stages.0.1.branch.conv1`, …, `head`; each convolution has
    `weight`, `bias` and `gain`.

    Args:
        depths: blocks in each stage; every stage after the first halves the image.
        widths: channels of the stream in each stage; the 3×3 convolution has a quarter, a multiple of 8.
        num_classes: outputs of the head.
        in_channels: of the image.
        stem_channels: outputs of the stem.
        alpha: constant in front of each branch.
        activation: φ, a name as in `pure.layers.Activation` or a function.
        skip_init: end each branch in a learnt scalar that starts at 0.
        dropout: rate in front of the head.
        drop_path_rate: of the last block; the others' rise linearly from 0.

    Raises:
        ArgumentError: depths and widths that do not fit.

    Source: Brock et al. 2021 (2101.08692), section 4.

    Example:
        >>> norm_free_resnet((1, 2), widths=(32, 64), stem_channels=8, num_classes=5).out_shape((2, 3, 32, 32))
        (2, 5)
    """
    check_stages(depths, widths)
    rates = iter(DropPath.linear(drop_path_rate, sum(depths)))
    stages: list[Block] = []
    channels, variance = stem_channels, 1.0
    for number, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        blocks: list[Block] = []
        for index in range(depth):
            block = norm_free_block(
                channels,
                width,
                2 if index == 0 and number > 0 else 1,
                alpha=alpha,
                beta=variance**-0.5,
                hidden=divisible(width / 4),
                activation=activation,
                skip_init=skip_init,
                drop_path=next(rates),
            )
            blocks.append(block)
            channels, variance = width, (1.0 if index == 0 else variance) + alpha**2
        stages.append(Sequential(*blocks))
    drop: dict[str, Block] = {"drop": Dropout(dropout)} if dropout else {}
    return Sequential(
        stem=Sequential(
            conv=norm_free_conv(in_channels, stem_channels, 7, 2, activation=activation), pool=MaxPool(3, 2, 1)
        ),
        stages=Sequential(*stages),
        act=Activation(activation),
        pool=GlobalAvgPool(),
        **drop,
        head=Linear(channels, num_classes, weight_init=Normal(0.0, 0.01), bias_init=Constant(0.0)),
    )


def nf_resnet50(**options: Any) -> Block:
    """Return NF-ResNet-50: 25,557,032 parameters; options as for `norm_free_resnet`."""
    return norm_free_resnet((3, 4, 6, 3), **options)
