"""The residual blocks of convolutional networks, version 1: relu(S(x) + f(x))."""

from __future__ import annotations

from typing import Final, Literal, get_args

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.initializers import Constant, Initializer, KaimingNormal
from pure.layers import Activation, AvgPool, BatchNorm, BlurPool, Conv2d, DropPath, GroupNorm
from pure.layers.squeeze import SqueezeExcite
from pure.skips.additive.residual import Residual
from pure.skips.additive.shortcut import AvgPoolProject, Identity, Project

__all__ = [
    "HE",
    "Antialias",
    "NormName",
    "StrideIn",
    "basic_block",
    "bottleneck",
    "conv1x1",
    "conv3x3",
    "default_shortcut",
    "last_norm",
    "norm2d",
    "projection",
]

HE: Final[Initializer] = KaimingNormal(mode="fan_out")
"""Normal with variance 2 / fan_out, the rule of every convolution here (He et al. 2015, 1502.01852)."""
StrideIn = Literal["3x3", "1x1"]
Antialias = Literal["avg", "blur"]
NormName = Literal["batch", "group"]
GROUPS: Final = 32
"""Groups of a GroupNorm here (Wu and He 2018, 1803.08494, section 4)."""


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> Conv2d:
    """Return a padded 3×3 convolution without bias, initialised by He's rule."""
    return Conv2d(in_channels, out_channels, 3, stride, 1, groups=groups, bias=False, weight_init=HE)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> Conv2d:
    """Return a 1×1 convolution without bias, drawn by He's rule."""
    return Conv2d(in_channels, out_channels, 1, stride, bias=False, weight_init=HE)


def norm2d(name: NormName, channels: int, *, gain: float = 1.0) -> Block:
    """Return the norm of that name; the gains of a BatchNorm start at `gain`, those of a GroupNorm at 1.

    Raises:
        ArgumentError: an unknown name.
    """
    if name not in get_args(NormName):
        raise ArgumentError(f"norm={name!r}: expected one of {', '.join(get_args(NormName))}")
    return BatchNorm(channels, weight_init=Constant(gain)) if name == "batch" else GroupNorm(GROUPS, channels)


def last_norm(channels: int, zero: bool, norm: NormName = "batch") -> Block:
    """Return a branch's last norm; γ = 0 initially makes the block its shortcut."""
    return norm2d(norm, channels, gain=0.0 if zero else 1.0)


def _downsampled(antialias: Antialias | None, stride: int) -> tuple[int, dict[str, Block]]:
    """Return the convolution's own stride and the filter that strides in its place, if there is one."""
    if antialias is not None and antialias not in get_args(Antialias):
        raise ArgumentError(f"antialias={antialias!r}: expected None or one of {', '.join(get_args(Antialias))}")
    if antialias is None or stride == 1:
        return stride, {}
    return 1, {"aa": AvgPool(stride) if antialias == "avg" else BlurPool(stride)}


def projection(
    in_channels: int, out_channels: int, stride: int = 1, *, pooled: bool = False, norm: NormName = "batch"
) -> Block:
    """Return the shortcut BN(W x) of stride `stride`, with He's rule for W.

    Leaves: `conv` and `norm`; with `pooled` under `project`.

    Args:
        in_channels: of the stream.
        out_channels: of the branch.
        stride: of the shortcut.
        pooled: stride by an average in front of W, as ResNet-D does.
        norm: "batch" or "group"; a pooled one has "batch".

    Source: He et al. 2015 (1512.03385), section 4.1, option B; He et al. 2018 (1812.01187), figure 2c.

    Example:
        >>> projection(3, 8, 2).out_shape((1, 3, 6, 6))
        (1, 8, 3, 3)
    """
    if pooled:
        return AvgPoolProject(in_channels, out_channels, stride, weight_init=HE)
    if norm != "batch":
        return Sequential(conv=conv1x1(in_channels, out_channels, stride), norm=norm2d(norm, out_channels))
    return Project(in_channels, out_channels, stride, bias=False, norm=True, weight_init=HE)


def default_shortcut(in_channels: int, out_channels: int, stride: int, norm: NormName = "batch") -> Block:
    """Return the identity, or a projection with a norm where the shape changes (option B)."""
    same = stride == 1 and in_channels == out_channels
    return Identity() if same else projection(in_channels, out_channels, stride, norm=norm)


def _block(parts: dict[str, Block], shortcut: Block, squeeze: int | None, out: int, drop_path: float) -> Residual:
    if squeeze is not None:
        parts["se"] = SqueezeExcite(out, squeeze or None, weight_init=HE)
    if drop_path:
        parts["drop_path"] = DropPath(drop_path)
    return Residual(Sequential(**parts), shortcut, activation="relu")


def basic_block(
    in_channels: int,
    out_channels: int,
    stride: int = 1,
    *,
    shortcut: Block | None = None,
    squeeze: int | None = None,
    zero_gamma: bool = False,
    drop_path: float = 0.0,
    norm: NormName = "batch",
    antialias: Antialias | None = None,
) -> Residual:
    """Return relu(S(x) + BN(conv₂ relu(BN(conv₁ x)))), 3×3 convolutions, conv₁ with stride.

    Leaves: `branch.conv1`, `branch.bn1`, `branch.conv2`, `branch.bn2`, `branch.se`, and those of `shortcut`.

    Args:
        in_channels: of the stream.
        out_channels: of the branch.
        stride: of the first convolution and of the shortcut.
        shortcut: S; None is the identity, or a projection with BatchNorm where the shape changes (option B).
        squeeze: hidden channels of a squeeze-and-excitation at the end of the branch, 0 for its default; None for none.
        zero_gamma: start the last BatchNorm at γ = 0 (Goyal et al. 2017, 1706.02677, section 5.1).
        drop_path: the probability of dropping a sample's branch in training.
        norm: "batch" or "group" (of 32 groups).
        antialias: what strides in place of the strided convolution: "avg" or "blur" (Zhang 2019, 1904.11486).

    Source: He et al. 2015 (1512.03385), figure 5 left.

    Example:
        >>> basic_block(4, 8, stride=2).out_shape((1, 4, 6, 6))
        (1, 8, 3, 3)
    """
    own, filtered = _downsampled(antialias, stride)
    parts: dict[str, Block] = {
        "conv1": conv3x3(in_channels, out_channels, own),
        "bn1": norm2d(norm, out_channels),
        "act1": Activation("relu"),
        **filtered,
        "conv2": conv3x3(out_channels, out_channels),
        "bn2": last_norm(out_channels, zero_gamma, norm),
    }
    around = default_shortcut(in_channels, out_channels, stride, norm) if shortcut is None else shortcut
    return _block(parts, around, squeeze, out_channels, drop_path)


def bottleneck(
    in_channels: int,
    out_channels: int,
    stride: int = 1,
    *,
    hidden: int | None = None,
    groups: int = 1,
    stride_in: StrideIn = "3x3",
    shortcut: Block | None = None,
    squeeze: int | None = None,
    zero_gamma: bool = False,
    drop_path: float = 0.0,
    norm: NormName = "batch",
    antialias: Antialias | None = None,
) -> Residual:
    """Return relu(S(x) + f(x)) with f a 1×1, a 3×3 and a 1×1 convolution, each with BatchNorm.

    A wider `hidden` is Wide ResNet-50-2's block, `groups` above 1 ResNeXt's. Leaves: `branch.conv1`, `branch.bn1`, …,
    `branch.bn3`, `branch.se`, and those of `shortcut`.

    Args:
        in_channels: of the stream.
        out_channels: of the branch.
        stride: of one convolution and of the shortcut.
        hidden: channels of the 3×3 convolution; None is a quarter of `out_channels`.
        groups: of the 3×3 convolution.
        stride_in: which convolution strides: "3x3" (version 1.5, as torchvision and timm) or "1x1" (the paper).
        shortcut: S; None is the identity, or a projection with BatchNorm where the shape changes (option B).
        squeeze: hidden channels of a squeeze-and-excitation at the end of the branch, 0 for its default; None for none.
        zero_gamma: start the last BatchNorm at γ = 0.
        drop_path: the probability of dropping a sample's branch in training.
        norm: "batch" or "group" (of 32 groups).
        antialias: what strides in place of the strided convolution: "avg" or "blur" (Zhang 2019, 1904.11486).

    Raises:
        ArgumentError: an unknown `stride_in`, or `hidden` that `groups` does not divide.

    Source: He et al. 2015 (1512.03385), figure 5 right; Xie et al. 2016 (1611.05431), figure 3c.

    Example:
        >>> bottleneck(16, 32, stride=2, groups=4).out_shape((1, 16, 6, 6))
        (1, 32, 3, 3)
    """
    if stride_in not in get_args(StrideIn):
        raise ArgumentError(f"stride_in={stride_in!r}: expected one of {', '.join(get_args(StrideIn))}")
    width = out_channels // 4 if hidden is None else hidden
    own, filtered = _downsampled(antialias, stride if stride_in == "3x3" else 1)
    parts: dict[str, Block] = {
        "conv1": conv1x1(in_channels, width, stride if stride_in == "1x1" else 1),
        "bn1": norm2d(norm, width),
        "act1": Activation("relu"),
        "conv2": conv3x3(width, width, own, groups),
        "bn2": norm2d(norm, width),
        "act2": Activation("relu"),
        **filtered,
        "conv3": conv1x1(width, out_channels),
        "bn3": last_norm(out_channels, zero_gamma, norm),
    }
    around = default_shortcut(in_channels, out_channels, stride, norm) if shortcut is None else shortcut
    return _block(parts, around, squeeze, out_channels, drop_path)
