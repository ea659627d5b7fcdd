"""The parts of a DenseNet: layers, blocks of them, and the transitions between blocks."""

from __future__ import annotations

from itertools import pairwise

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.initializers import Initializer, KaimingNormal
from pure.layers import Activation, AvgPool, BatchNorm, Conv2d, Dropout
from pure.skips.dense.dense_skip import DenseSkip

__all__ = ["dense_block", "dense_layer", "transition"]


def dense_layer(
    in_channels: int,
    growth: int,
    bottleneck: int | None = 4,
    dropout: float = 0.0,
    *,
    weight_init: Initializer = KaimingNormal(),
) -> Block:
    """Return [x, H(x)]: H is BN-relu-1×1 (to `bottleneck` · `growth`), BN-relu-3×3 (to `growth`), dropout.

    Leaves under `branch`: `norm1`, `conv1`, `norm2`, `conv2`; without a bottleneck `norm1`, `conv1` (3×3) alone.

    Args:
        in_channels: channels of the stream.
        growth: channels that the layer adds, k.
        bottleneck: width of the 1×1 convolution over `growth`; None leaves it out.
        dropout: of the new features, a value: after the last convolution alone, as torchvision has it.
        weight_init: rule for the convolutions.

    Raises:
        ArgumentError: a growth or a bottleneck below 1.

    Source: Huang et al. 2016 (1608.06993), section 3, "composite function" and "bottleneck layers".

    Example:
        >>> dense_layer(6, 4).out_shape((1, 6, 8, 8))
        (1, 10, 8, 8)
    """
    if growth < 1 or (bottleneck is not None and bottleneck < 1):
        raise ArgumentError(f"dense_layer growth={growth}, bottleneck={bottleneck}: expected at least 1")
    widths = [in_channels, growth] if bottleneck is None else [in_channels, bottleneck * growth, growth]
    parts: dict[str, Block] = {}
    for index, (before, after) in enumerate(pairwise(widths), start=1):
        kernel = 3 if index == len(widths) - 1 else 1
        parts[f"norm{index}"] = BatchNorm(before)
        parts[f"relu{index}"] = Activation("relu")
        parts[f"conv{index}"] = Conv2d(before, after, kernel, padding=kernel // 2, bias=False, weight_init=weight_init)
    if dropout:
        parts["drop"] = Dropout(dropout)
    return DenseSkip(Sequential(**parts))


def dense_block(
    in_channels: int,
    depth: int,
    growth: int,
    bottleneck: int | None = 4,
    dropout: float = 0.0,
    *,
    weight_init: Initializer = KaimingNormal(),
) -> Block:
    """Return `depth` dense layers, each of which sees the features of all before it: x_l = H_l([x₀, …, x_{l−1}]).

    Children: `denselayer1`, `denselayer2`, …; the output has in_channels + depth · growth channels.

    Args:
        in_channels: channels of the stream.
        depth: how many layers.
        growth: channels that each adds.
        bottleneck: see `dense_layer`.
        dropout: see `dense_layer`.
        weight_init: rule for the convolutions.

    Source: Huang et al. 2016 (1608.06993), equation 2.

    Example:
        >>> dense_block(6, 3, 4).out_shape((1, 6, 8, 8))
        (1, 18, 8, 8)
    """
    layers = {
        f"denselayer{index + 1}": dense_layer(
            in_channels + index * growth, growth, bottleneck, dropout, weight_init=weight_init
        )
        for index in range(depth)
    }
    return Sequential(**layers)


def transition(in_channels: int, out_channels: int, *, weight_init: Initializer = KaimingNormal()) -> Block:
    """Return avgpool₂(W relu(BN x)), between two dense blocks: leaves `norm`, `conv`.

    Args:
        in_channels: channels of the stream.
        out_channels: channels after it; ⌊θ · in_channels⌋ with the paper's compression θ.
        weight_init: rule for the 1×1 convolution.

    Source: Huang et al. 2016 (1608.06993), section 3, "pooling layers" and "compression".

    Example:
        >>> transition(6, 3).out_shape((1, 6, 8, 8))
        (1, 3, 4, 4)
    """
    return Sequential(
        norm=BatchNorm(in_channels),
        relu=Activation("relu"),
        conv=Conv2d(in_channels, out_channels, 1, bias=False, weight_init=weight_init),
        pool=AvgPool(2),
    )
