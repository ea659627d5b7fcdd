"""ResNet v2 blocks: x + f(x), with norm and activation in front of each convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.layers import Activation, AvgPool, BatchNorm, Conv2d, Dropout, DropPath, StdConv2d
from pure.layers.resizing import pad_channels
from pure.skips.additive.conv_blocks import HE, NormName, conv1x1, conv3x3, norm2d
from pure.skips.additive.residual import Residual
from pure.skips.additive.shortcut import Identity, Project, Shortcut

__all__ = ["PoolPad", "preact_basic", "preact_bottleneck", "preact_conv", "pyramid_block", "pyramid_bottleneck"]


def preact_conv(
    in_channels: int, out_channels: int, size: int, stride: int = 1, standard_eps: float | None = None
) -> Conv2d:
    """Return a convolution without bias that keeps the size but for its stride, by He's rule.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        size: odd size of the kernel.
        stride: of the kernel.
        standard_eps: standardise the weights with that eps; None does not.
    """
    sizes = in_channels, out_channels, size, stride, size // 2
    if standard_eps is None:
        return Conv2d(*sizes, bias=False, weight_init=HE)
    return StdConv2d(*sizes, bias=False, weight_init=HE, eps=standard_eps)


def _preactivated(
    branch: dict[str, Block], channels: int, shortcut: Block | None, drop_path: float, norm: NormName
) -> Block:
    """Return x + f(norm-relu x), or S(a) + f(a) with a = norm-relu x where a shortcut is given."""
    before: dict[str, Block] = {"norm1": norm2d(norm, channels), "act1": Activation("relu")}
    if drop_path:
        branch["drop_path"] = DropPath(drop_path)
    if shortcut is None:
        return Residual(Sequential(**before, **branch))
    return Sequential(**before, residual=Residual(Sequential(**branch), shortcut))


def _shortcut(
    sizes: tuple[int, int, int],
    given: Block | None,
    project: bool | None,
    pooled: bool,
    standard_eps: float | None = None,
) -> Block | None:
    """Return the shortcut where the shape changes, else None."""
    in_channels, out_channels, stride = sizes
    changes = stride != 1 or in_channels != out_channels
    if not (changes if project is None else project):
        if changes:
            raise ArgumentError(f"project=False, but {in_channels} channels become {out_channels} at stride {stride}")
        return None
    if given is not None:
        return given
    if pooled and stride != 1:
        pool = AvgPool(stride, ceil_mode=True, count_include_pad=False)
        return Sequential(pool=pool, conv=preact_conv(in_channels, out_channels, 1, 1, standard_eps))
    if standard_eps is not None:
        return Sequential(conv=preact_conv(in_channels, out_channels, 1, stride, standard_eps))
    return Project(in_channels, out_channels, stride, bias=False, weight_init=HE)


def preact_basic(
    in_channels: int,
    out_channels: int,
    stride: int = 1,
    *,
    shortcut: Block | None = None,
    pooled: bool = False,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    norm: NormName = "batch",
) -> Block:
    """Return x + conv₂ relu(BN(conv₁ relu(BN x))), 3×3 convolutions; also Wide ResNet's.

    Where the shape changes, the first BN-relu stands in front of both the branch and the shortcut.
    Leaves: `branch.norm1`, `branch.conv1`, `branch.norm2`, `branch.conv2`; where the shape changes `norm1`,
    `residual.branch.conv1`, …, and `residual.shortcut`.

    Args:
        in_channels: of the stream.
        out_channels: of the branch.
        stride: of the first convolution and of the shortcut.
        shortcut: where the shape changes; None is a 1×1 convolution without BatchNorm.
        pooled: stride that convolution by an average in front of it.
        dropout: rate of a dropout between the convolutions (Wide ResNet, section 2.4).
        drop_path: the probability of dropping a sample's branch in training.
        norm: "batch" or "group" (of 32 groups).

    Source: He et al. 2016 (1603.05027), figure 4e and appendix; Zagoruyko and Komodakis 2016 (1605.07146), figure 1d.

    Example:
        >>> preact_basic(4, 8, stride=2).out_shape((1, 4, 6, 6))
        (1, 8, 3, 3)
    """
    branch: dict[str, Block] = {
        "conv1": conv3x3(in_channels, out_channels, stride),
        "norm2": norm2d(norm, out_channels),
        "act2": Activation("relu"),
        **({"dropout": Dropout(dropout)} if dropout else {}),
        "conv2": conv3x3(out_channels, out_channels),
    }
    around = _shortcut((in_channels, out_channels, stride), shortcut, None, pooled)
    return _preactivated(branch, in_channels, around, drop_path, norm)


def preact_bottleneck(
    in_channels: int,
    out_channels: int,
    stride: int = 1,
    *,
    hidden: int | None = None,
    shortcut: Block | None = None,
    project: bool | None = None,
    pooled: bool = False,
    drop_path: float = 0.0,
    norm: NormName = "batch",
    standard_eps: float | None = None,
) -> Block:
    """Return x + conv₃ relu(BN(conv₂ relu(BN(conv₁ relu(BN x))))), conv₂ 3×3 with stride.

    Where the shape changes, the first BN-relu stands in front of both the branch and the shortcut; leaves as in
    `preact_basic`.

    Args:
        in_channels: of the stream.
        out_channels: of the branch.
        stride: of the 3×3 convolution and of the shortcut.
        hidden: channels of the 3×3 convolution; None is a quarter of `out_channels`.
        shortcut: where the shape changes; None is a 1×1 convolution without BatchNorm.
        project: whether there is that shortcut; None is where the shape changes.
        pooled: stride that convolution by an average in front of it.
        drop_path: the probability of dropping a sample's branch in training.
        norm: "batch" or "group" (of 32 groups).
        standard_eps: standardise the weights (1903.10520) with that eps; None does not.

    Raises:
        ArgumentError: no projection although the shape changes.

    Source: He et al. 2016 (1603.05027), figure 1b and section 4.

    Example:
        >>> preact_bottleneck(8, 16, stride=2).out_shape((1, 8, 6, 6))
        (1, 16, 3, 3)
    """
    width = out_channels // 4 if hidden is None else hidden
    branch: dict[str, Block] = {
        "conv1": preact_conv(in_channels, width, 1, 1, standard_eps),
        "norm2": norm2d(norm, width),
        "act2": Activation("relu"),
        "conv2": preact_conv(width, width, 3, stride, standard_eps),
        "norm3": norm2d(norm, width),
        "act3": Activation("relu"),
        "conv3": preact_conv(width, out_channels, 1, 1, standard_eps),
    }
    around = _shortcut((in_channels, out_channels, stride), shortcut, project, pooled, standard_eps)
    return _preactivated(branch, in_channels, around, drop_path, norm)


@dataclass(frozen=True, repr=False)
class PoolPad(Shortcut):
    """Average pooling by `stride`, then zero-padded channels: PyramidNet's shortcut.

    Args:
        stride: size and step of the window; odd borders are pooled over what is there.

    Source: Han et al. 2016 (1610.02915), section 3.2 and figure 5b.

    Example:
        >>> import torch
        >>> PoolPad(2).fit({}, torch.ones(1, 2, 4, 4), (1, 3, 2, 2), {}, {})[0].shape
        torch.Size([1, 3, 2, 2])
    """

    stride: int = 1

    def prepare(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the pooled, padded stream."""
        pooled = x if self.stride == 1 else F.avg_pool2d(x, self.stride, ceil_mode=True, count_include_pad=False)
        return pad_channels(pooled, shape[1])


def pyramid_block(in_channels: int, out_channels: int, stride: int = 1) -> Residual:
    """Return S(x) + BN(conv₂ relu(BN(conv₁ BN x))): one relu, and a BatchNorm at the end.

    S pools and appends zero channels, so that no block has a projection.

    Args:
        in_channels: of the stream.
        out_channels: of the branch, at least `in_channels`.
        stride: of the first convolution and of the shortcut.

    Source: Han et al. 2016 (1610.02915), figure 6d.

    Example:
        >>> pyramid_block(4, 6).out_shape((1, 4, 5, 5))
        (1, 6, 5, 5)
    """
    branch = Sequential(
        norm1=BatchNorm(in_channels),
        conv1=conv3x3(in_channels, out_channels, stride),
        norm2=BatchNorm(out_channels),
        act2=Activation("relu"),
        conv2=conv3x3(out_channels, out_channels),
        norm3=BatchNorm(out_channels),
    )
    return Residual(branch, _padded(in_channels, out_channels, stride))


def pyramid_bottleneck(in_channels: int, out_channels: int, stride: int = 1) -> Residual:
    """Return PyramidNet's bottleneck: `pyramid_block` with 1×1, 3×3 and 1×1 convolutions.

    Args:
        in_channels: of the stream.
        out_channels: of the branch, at least `in_channels`; the 3×3 convolution has a quarter of them.
        stride: of the 3×3 convolution and of the shortcut.

    Source: Han et al. 2016 (1610.02915), section 3.3.

    Example:
        >>> pyramid_bottleneck(4, 8, stride=2).out_shape((1, 4, 6, 6))
        (1, 8, 3, 3)
    """
    width = out_channels // 4
    branch = Sequential(
        norm1=BatchNorm(in_channels),
        conv1=conv1x1(in_channels, width),
        norm2=BatchNorm(width),
        act2=Activation("relu"),
        conv2=conv3x3(width, width, stride),
        norm3=BatchNorm(width),
        act3=Activation("relu"),
        conv3=conv1x1(width, out_channels),
        norm4=BatchNorm(out_channels),
    )
    return Residual(branch, _padded(in_channels, out_channels, stride))


def _padded(in_channels: int, out_channels: int, stride: int) -> Block:
    return Identity() if stride == 1 and in_channels == out_channels else PoolPad(stride)
