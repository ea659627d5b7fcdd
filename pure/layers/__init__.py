"""Leaf blocks: one operation each, with PyTorch's leaf names, layouts and default initial weights."""

from pure.layers.activation import Activation
from pure.layers.conv import Conv1d, Conv2d, Conv3d
from pure.layers.dropout import Dropout
from pure.layers.linear import Linear
from pure.layers.norm import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from pure.layers.pool import AvgPool, Flatten, GlobalAvgPool, MaxPool

__all__ = [
    "Activation",
    "AvgPool",
    "BatchNorm",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "GroupNorm",
    "LayerNorm",
    "Linear",
    "MaxPool",
    "RMSNorm",
]
