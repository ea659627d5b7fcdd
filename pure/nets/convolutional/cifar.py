"""ResNet, pre-activation ResNet, Wide ResNet and PyramidNet for 32×32 images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.layers import Activation, BatchNorm, GlobalAvgPool, Linear
from pure.nets.convolutional.resnet import BlockName, check_choice
from pure.skips.additive.conv_blocks import basic_block, conv3x3
from pure.skips.additive.preactivation import preact_basic, preact_bottleneck, pyramid_block, pyramid_bottleneck
from pure.skips.additive.shortcut import Pad

__all__ = [
    "cifar_preresnet",
    "cifar_pyramidnet",
    "cifar_resnet",
    "cifar_wide_resnet",
    "preresnet110",
    "preresnet164",
    "preresnet1001",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet1202",
    "wrn28_10",
]

ShortcutName = Literal["A", "B"]
Make = Callable[[int, int, int], Block]


def _blocks(depth: int, rest: int, layers: int, widths: Sequence[int] = (0, 0, 0)) -> int:
    """Return the blocks per stage of a network of `depth` = 3 · `layers` · blocks + `rest` layers."""
    if len(widths) != 3:
        raise ArgumentError(f"widths={tuple(widths)}: expected those of three stages")
    blocks, left = divmod(depth - rest, 3 * layers)
    if left or blocks < 1:
        raise ArgumentError(f"depth={depth}: expected {3 * layers} n + {rest} with n at least 1")
    return blocks


def _stages(make: Make, channels: int, outs: Sequence[Sequence[int]]) -> tuple[dict[str, Block], int]:
    """Return the stages, each but the first halving the image in its first block, and the last channels."""
    stages: dict[str, Block] = {}
    for number, row in enumerate(outs, start=1):
        blocks: list[Block] = []
        for index, out in enumerate(row):
            blocks.append(make(channels, out, 2 if index == 0 and number > 1 else 1))
            channels = out
        stages[f"stage{number}"] = Sequential(*blocks)
    return stages, channels


def _head(channels: int, num_classes: int, norm: bool) -> dict[str, Block]:
    last: dict[str, Block] = {"norm": BatchNorm(channels), "act": Activation("relu")} if norm else {}
    return {**last, "pool": GlobalAvgPool(), "fc": Linear(channels, num_classes)}


def cifar_resnet(
    depth: int,
    *,
    shortcut: ShortcutName = "A",
    num_classes: int = 10,
    in_channels: int = 3,
    widths: Sequence[int] = (16, 32, 64),
) -> Block:
    """Return the ResNet of 6n + 2 layers: 3×3 stem, 3 stages of n blocks, average, linear head.

    (batch, in_channels, height, width) → (batch, num_classes).
    Leaves: `conv1`, `bn1`, `stage1.0.branch.conv1`, …, `fc`.

    Args:
        depth: number of layers, 20, 32, 44, 56, 110, …, 1202.
        shortcut: where the shape changes: "A" takes every second pixel and appends zero channels, "B" projects.
        num_classes: outputs of the head.
        in_channels: of the image.
        widths: of the stages.

    Raises:
        ArgumentError: a depth of another form, widths that are not three, or an unknown shortcut.

    Source: He et al. 2015 (1512.03385), section 4.2.

    Example:
        >>> cifar_resnet(8).out_shape((2, 3, 32, 32))
        (2, 10)
    """
    check_choice("shortcut", shortcut, get_args(ShortcutName))
    blocks = _blocks(depth, 2, 2, widths)

    def make(channels: int, out: int, stride: int) -> Block:
        padded = shortcut == "A" and (stride != 1 or channels != out)
        return basic_block(channels, out, stride, shortcut=Pad(stride) if padded else None)

    stages, last = _stages(make, widths[0], [[width] * blocks for width in widths])
    stem = {"conv1": conv3x3(in_channels, widths[0]), "bn1": BatchNorm(widths[0]), "act1": Activation("relu")}
    return Sequential(**stem, **stages, **_head(last, num_classes, norm=False))


def cifar_preresnet(
    depth: int,
    *,
    block: BlockName = "basic",
    shortcut: ShortcutName = "B",
    num_classes: int = 10,
    in_channels: int = 3,
    widths: Sequence[int] = (16, 32, 64),
) -> Block:
    """Return the pre-activation ResNet of 6n + 2 layers, or 9n + 2 with bottlenecks.

    Bottlenecks are four times as wide. (batch, in_channels, height, width) → (batch, num_classes).
    Leaves: `conv1`, `stage1.0.branch.norm1`, …, `norm`, `fc`; see `preact_basic` for blocks that change the shape.

    Args:
        depth: number of layers: 110 with basic blocks; 164 or 1001 with bottlenecks.
        block: "basic" or "bottleneck".
        shortcut: where the shape changes, after the first BN-relu: "A" pads, "B" is a 1×1 convolution.
        num_classes: outputs of the head.
        in_channels: of the image.
        widths: of the stages; the first is also the first convolution's.

    Raises:
        ArgumentError: a depth of another form, widths that are not three, or an unknown name.

    Source: He et al. 2016 (1603.05027), tables 3 and 4.

    Example:
        >>> cifar_preresnet(11, block="bottleneck").out_shape((2, 3, 32, 32))
        (2, 10)
    """
    check_choice("block", block, get_args(BlockName))
    check_choice("shortcut", shortcut, get_args(ShortcutName))
    wider, layers = (1, 2) if block == "basic" else (4, 3)
    blocks = _blocks(depth, 2, layers, widths)

    def make(channels: int, out: int, stride: int) -> Block:
        around = Pad(stride) if shortcut == "A" else None
        kind = preact_basic if block == "basic" else preact_bottleneck
        return kind(channels, out, stride, shortcut=around)

    stages, last = _stages(make, widths[0], [[wider * width] * blocks for width in widths])
    stem = conv3x3(in_channels, widths[0])
    return Sequential(conv1=stem, **stages, **_head(last, num_classes, norm=True))


def cifar_wide_resnet(
    depth: int = 28,
    width: int = 10,
    *,
    dropout: float = 0.0,
    num_classes: int = 10,
    in_channels: int = 3,
    widths: Sequence[int] = (16, 32, 64),
) -> Block:
    """Return the Wide ResNet of 6n + 4 layers.

    (batch, in_channels, height, width) → (batch, num_classes).
    The pre-activation ResNet, `width` times as wide, with projections.
    Leaves as in `cifar_preresnet`.

    Args:
        depth: number of layers, 16, 22, 28, 40, ….
        width: factor k of the stages' widths.
        dropout: rate between the two convolutions of a block.
        num_classes: outputs of the head.
        in_channels: of the image.
        widths: of the stages before the factor; the first is also the first convolution's.

    Raises:
        ArgumentError: a depth of another form, or widths that are not three.

    Source: Zagoruyko and Komodakis 2016 (1605.07146), table 1.

    Example:
        >>> cifar_wide_resnet(10, 2).out_shape((2, 3, 32, 32))
        (2, 10)
    """
    blocks = _blocks(depth, 4, 2, widths)

    def make(channels: int, out: int, stride: int) -> Block:
        return preact_basic(channels, out, stride, dropout=dropout)

    stages, last = _stages(make, widths[0], [[width * size] * blocks for size in widths])
    stem = conv3x3(in_channels, widths[0])
    return Sequential(conv1=stem, **stages, **_head(last, num_classes, norm=True))


def cifar_pyramidnet(
    depth: int = 110,
    alpha: int = 48,
    *,
    block: BlockName = "basic",
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 16,
) -> Block:
    """Return the PyramidNet of 6n + 2 layers, or 9n + 2 with bottlenecks.

    (batch, in_channels, height, width) → (batch, num_classes).
    Block k has `width` + α k / (3n) channels. The widths are rounded to the nearest integer, as in the authors' code;
    bottlenecks have four times as many.
    Leaves: `conv1`, `bn1`, `stage1.0.branch.norm1`, …, `norm`, `fc`; no shortcut has any.

    Args:
        depth: number of layers.
        alpha: by how much the last block is wider than the first convolution.
        block: "basic" or "bottleneck".
        num_classes: outputs of the head.
        in_channels: of the image.
        width: of the first convolution.

    Raises:
        ArgumentError: a depth of another form, or an unknown block.

    Source: Han et al. 2016 (1610.02915) and table 2.

    Example:
        >>> cifar_pyramidnet(8, 6).out_shape((2, 3, 32, 32))
        (2, 10)
    """
    check_choice("block", block, get_args(BlockName))
    wider, layers = (1, 2) if block == "basic" else (4, 3)
    count = _blocks(depth, 2, layers)
    outs = [wider * round(width + alpha * (index + 1) / (3 * count)) for index in range(3 * count)]
    rows = [outs[start : start + count] for start in range(0, 3 * count, count)]
    stages, last = _stages(pyramid_block if block == "basic" else pyramid_bottleneck, width, rows)
    stem = {"conv1": conv3x3(in_channels, width), "bn1": BatchNorm(width)}
    return Sequential(**stem, **stages, **_head(last, num_classes, norm=True))


def resnet20(**options: Any) -> Block:
    """Return the ResNet-20 for 32×32 images: 269,722 parameters; options as for `cifar_resnet`."""
    return cifar_resnet(20, **options)


def resnet32(**options: Any) -> Block:
    """Return the ResNet-32 for 32×32 images: 464,154 parameters; options as for `cifar_resnet`."""
    return cifar_resnet(32, **options)


def resnet44(**options: Any) -> Block:
    """Return the ResNet-44 for 32×32 images: 658,586 parameters; options as for `cifar_resnet`."""
    return cifar_resnet(44, **options)


def resnet56(**options: Any) -> Block:
    """Return the ResNet-56 for 32×32 images: 853,018 parameters; options as for `cifar_resnet`."""
    return cifar_resnet(56, **options)


def resnet110(**options: Any) -> Block:
    """Return the ResNet-110 for 32×32 images.

    1,727,962 parameters; options as for `cifar_resnet`.
    """
    return cifar_resnet(110, **options)


def resnet1202(**options: Any) -> Block:
    """Return the ResNet-1202 for 32×32 images.

    19,421,274 parameters; options as for `cifar_resnet`.
    """
    return cifar_resnet(1202, **options)


def preresnet110(**options: Any) -> Block:
    """Return the PreResNet-110 of basic blocks, option A unless given.

    1,727,962 parameters; options as for `cifar_preresnet`.
    """
    return cifar_preresnet(110, **{"shortcut": "A", **options})


def preresnet164(**options: Any) -> Block:
    """Return the PreResNet-164 of bottlenecks.

    1,703,258 parameters; options as for `cifar_preresnet`.
    """
    return cifar_preresnet(164, **{"block": "bottleneck", **options})


def preresnet1001(**options: Any) -> Block:
    """Return the PreResNet-1001 of bottlenecks.

    10,327,706 parameters; options as for `cifar_preresnet`.
    """
    return cifar_preresnet(1001, **{"block": "bottleneck", **options})


def wrn28_10(**options: Any) -> Block:
    """Return WRN-28-10: 36,479,194 parameters; options as for `cifar_wide_resnet`."""
    return cifar_wide_resnet(28, 10, **options)
