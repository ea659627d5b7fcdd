"""Input shapes and small branches that many rows share."""

from __future__ import annotations

from typing import Final

from pure.block import Block
from pure.compose import Sequential
from pure.layers import Activation, BatchNorm, Conv2d, Linear
from pure.layers.activation import ActivationLike

__all__ = ["HE", "IMAGE", "ROWS", "TOKENS", "conv", "mlp"]

IMAGE: Final = (4, 4, 7, 7)
"""(batch, channels, height, width)."""
ROWS: Final = (5, 6)
"""(batch, features)."""
TOKENS: Final = (3, 5, 8)
"""(batch, tokens, features)."""
HE: Final = "He et al. 2015 (1512.03385)"


def mlp(features: int = 6, hidden: int = 8, activation: ActivationLike = "tanh") -> Block:
    """Return W₂ σ(W₁ x), over the last axis."""
    return Sequential(fc1=Linear(features, hidden), act=Activation(activation), fc2=Linear(hidden, features))


def conv(in_channels: int, out_channels: int, padding: int = 1, stride: int = 1) -> Block:
    """Return conv, BatchNorm, relu, conv, BatchNorm: the branch of a basic residual block."""
    return Sequential(
        conv1=Conv2d(in_channels, out_channels, 3, padding=padding, stride=stride, bias=False),
        norm1=BatchNorm(out_channels),
        act=Activation("relu"),
        conv2=Conv2d(out_channels, out_channels, 3, padding=padding, bias=False),
        norm2=BatchNorm(out_channels),
    )
