"""Leaf blocks: one operation each, with PyTorch's leaf names, layouts and initial values."""

from pure.layers.activation import Activation
from pure.layers.attention import Attention
from pure.layers.axes import MoveAxis, Upsample
from pure.layers.channel_norm import ChannelNorm, ChannelRMSNorm, GlobalResponseNorm
from pure.layers.conv import Conv1d, Conv2d, Conv3d
from pure.layers.dropout import Dropout, DropPath
from pure.layers.embedding import BertEmbeddings, Embedding, LearnedPositions
from pure.layers.linear import Linear
from pure.layers.norm import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from pure.layers.patches import ClassToken, MeanToken, PatchEmbedding
from pure.layers.pool import AvgPool, BlurPool, Flatten, GlobalAvgPool, MaxPool, ZeroPad
from pure.layers.rotary import Rotary
from pure.layers.scale import Scale
from pure.layers.shift import Shift
from pure.layers.squeeze import SqueezeExcite
from pure.layers.tokens import FirstToken
from pure.layers.weight_standard import ScaledActivation, ScaledStdConv2d, StdConv2d

__all__ = [
    "Activation",
    "Attention",
    "AvgPool",
    "BatchNorm",
    "BertEmbeddings",
    "BlurPool",
    "ChannelNorm",
    "ChannelRMSNorm",
    "ClassToken",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "DropPath",
    "Dropout",
    "Embedding",
    "FirstToken",
    "Flatten",
    "GlobalAvgPool",
    "GlobalResponseNorm",
    "GroupNorm",
    "LayerNorm",
    "LearnedPositions",
    "Linear",
    "MaxPool",
    "MeanToken",
    "MoveAxis",
    "PatchEmbedding",
    "RMSNorm",
    "Rotary",
    "Scale",
    "ScaledActivation",
    "ScaledStdConv2d",
    "Shift",
    "SqueezeExcite",
    "StdConv2d",
    "Upsample",
    "ZeroPad",
]
