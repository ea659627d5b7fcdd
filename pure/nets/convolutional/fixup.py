"""Fixup ResNets for CIFAR: deep residual networks without a single norm."""

from __future__ import annotations

from typing import Final

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.initializers import Constant
from pure.layers import Activation, Conv2d, GlobalAvgPool, Linear
from pure.layers.shift import Shift
from pure.skips.additive.shortcut import Pad
from pure.skips.scaled.fixup import fixup_basic

__all__ = ["fixup_resnet", "fixup_resnet20", "fixup_resnet110"]

ZERO: Final = Constant(0.0)


def fixup_resnet(
    depths: tuple[int, ...] = (3, 3, 3),
    widths: tuple[int, ...] = (16, 32, 64),
    *,
    num_classes: int = 10,
    in_channels: int = 3,
) -> Block:
    """Return conv, bias, relu, stages of Fixup basic blocks, mean, bias, linear.

    (batch, in_channels, height, width) → (batch, num_classes).
    Every stage but the first halves the image and pads the new channels with zeros. Leaves: `conv1`, `bias1`,
    `layer1.0.conv1`, …, `bias2`, `fc`; the classifier and each block's last convolution start at 0.

    Args:
        depths: blocks of each stage; their sum is the L of the initial values.
        widths: channels of each stage, none below the one before.
        num_classes: outputs.
        in_channels: channels of the image.

    Raises:
        ArgumentError: no stage, another number of widths than of depths, or falling widths.

    Source: Zhang et al. 2019 (1901.09321), section 3; the arrangement is that of the authors' CIFAR code.

    Example:
        >>> fixup_resnet((1, 1), (4, 8), num_classes=5).out_shape((2, 3, 8, 8))
        (2, 5)
    """
    if not depths or len(depths) != len(widths) or min(depths) < 1 or list(widths) != sorted(widths):
        raise ArgumentError(
            f"fixup_resnet depths={depths!r}, widths={widths!r}: expected a rising width and at least one block each"
        )
    stages: dict[str, Block] = {}
    channels, total = widths[0], sum(depths)
    for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        stride = 1 if index == 0 else 2
        pad = None if index == 0 else Pad(stride=2)
        first = fixup_basic(channels, width, depth=total, stride=stride, shortcut=pad)
        stages[f"layer{index + 1}"] = Sequential(first, *[fixup_basic(width, width, depth=total)] * (depth - 1))
        channels = width
    return Sequential(
        conv1=Conv2d(in_channels, widths[0], 3, padding=1, bias=False),
        bias1=Shift(),
        act=Activation("relu"),
        **stages,
        pool=GlobalAvgPool(),
        bias2=Shift(),
        fc=Linear(channels, num_classes, weight_init=ZERO, bias_init=ZERO),
    )


def fixup_resnet20(*, num_classes: int = 10, in_channels: int = 3) -> Block:
    """Return Fixup-ResNet-20, three stages of 3 blocks: 268,393 parameters; see `fixup_resnet`.

    Example:
        >>> from pure.block import specification
        >>> from pure import tree
        >>> tree.count(specification(fixup_resnet20())[0])
        268393
    """
    return fixup_resnet((3, 3, 3), num_classes=num_classes, in_channels=in_channels)


def fixup_resnet110(*, num_classes: int = 10, in_channels: int = 3) -> Block:
    """Return Fixup-ResNet-110, three stages of 18 blocks.

    1,720,138 parameters; see `fixup_resnet`.
    """
    return fixup_resnet((18, 18, 18), num_classes=num_classes, in_channels=in_channels)
