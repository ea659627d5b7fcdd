"""Shortcuts: ways to carry the stream past a branch that changes its shape.

A shortcut is called with the branch's output shape beside its input, so that cropping and interpolating need no sizes
of their own. `Residual` takes any block as its shortcut; these know how to fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from pure.block import EMPTY, Applied, Block, Extras, Params, Shape, State
from pure.composite import Composite, Run
from pure.errors import ArgumentError, RankError
from pure.initializers import Initializer, KaimingUniform
from pure.layers.conv import Conv1d, Conv2d, Conv3d
from pure.layers.linear import Linear
from pure.layers.norm import BatchNorm
from pure.layers.resizing import center_crop, pad_channels, resize
from pure.leaf import Leaf

__all__ = ["AvgPoolProject", "Crop", "Identity", "Interpolate", "Pad", "Project", "Shortcut"]


@dataclass(frozen=True, repr=False)
class Shortcut(Composite):
    """A block fitted to an output shape: `prepare(x, shape)`, then its children in order."""

    def prepare(self, x: Tensor, shape: Shape) -> Tensor:
        """Return `x` resized towards `shape` without parameters; by default `x` itself."""
        return x

    def fit(
        self, params: Params, x: Any, shape: Shape, state: State = EMPTY, extras: Extras = EMPTY, *rest: Any
    ) -> Applied:
        """Return the shortcut of `x` for a branch output of `shape`, and the new state."""
        return self._applied(partial(self.combine, shape=shape), params, x, state, extras, *rest)

    def combine(self, run: Run, params: Params, x: Any, extras: Extras, shape: Shape | None = None) -> Any:
        """Return the shortcut of `x`, for a branch that keeps the shape if none is given."""
        shape = x.shape if shape is None else shape
        x = self.prepare(x, shape)
        for name in self._children:
            x = run(name, x, shape)
        return x


@dataclass(frozen=True, repr=False)
class Identity(Leaf):
    """S(x) = x, for a branch that keeps the shape.

    Example:
        >>> import torch
        >>> Identity()({}, torch.ones(1, 2))
        tensor([[1., 1.]])
    """

    def forward(self, params: Params, x: Any) -> Any:
        """Return `x`."""
        return x

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)


@dataclass(frozen=True, repr=False)
class Pad(Shortcut):
    """Zero-pad the channels of x[:, :, ::stride, …] up to the branch's: option A of He et al. 2015, section 4.2.

    Args:
        stride: step over the spatial axes.
        where: "append" puts the zeros behind the channels, "centred" on both sides.

    Raises:
        ShapeError: a branch with fewer channels than the stream.

    Example:
        >>> import torch
        >>> Pad(stride=2).fit({}, torch.ones(1, 2, 4), (1, 3, 2), {}, {})[0]
        tensor([[[1., 1.],
                 [1., 1.],
                 [0., 0.]]])
    """

    stride: int = 1
    where: Literal["append", "centred"] = "append"

    def prepare(self, x: Tensor, shape: Shape) -> Tensor:
        """Return the strided, padded stream."""
        if self.stride != 1:
            x = x[(slice(None), slice(None), *[slice(None, None, self.stride)] * (x.ndim - 2))]
        return pad_channels(x, shape[1], self.where)


@dataclass(frozen=True, repr=False)
class Project(Shortcut):
    """A 1×1 projection of the channels, optionally followed by BatchNorm: options B and C of He et al. 2015.

    Leaves: `conv.weight` (out, in, 1, …), `conv.bias` (out,), and those of `norm`.

    Args:
        in_channels: channels of the stream.
        out_channels: channels of the branch's output.
        stride: step over the spatial axes.
        dims: number of spatial axes, 0 (a Linear over the last axis) to 3.
        bias: whether the projection has a bias.
        norm: whether BatchNorm follows.
        weight_init: rule for the projection's weight.

    Raises:
        ArgumentError: `dims` outside 0 to 3, or a stride without spatial axes.

    Source: He et al. 2015 (1512.03385), section 3.3.

    Example:
        >>> Project(3, 8, stride=2, norm=True).out_shape((1, 3, 6, 6))
        (1, 8, 3, 3)
    """

    in_channels: int
    out_channels: int
    stride: int = 1
    dims: int = 2
    bias: bool = True
    norm: bool = False
    weight_init: Initializer = KaimingUniform()

    def __post_init__(self) -> None:
        if not 0 <= self.dims <= 3:
            raise ArgumentError(f"Project dims={self.dims}: expected 0 to 3 spatial axes")
        if self.dims == 0 and self.stride != 1:
            raise ArgumentError(f"Project stride={self.stride} without spatial axes: expected 1")
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the projection and the norm, if there is one."""
        options: dict[str, Any] = {"bias": self.bias, "weight_init": self.weight_init}
        if self.dims == 0:
            conv: Block = Linear(self.in_channels, self.out_channels, **options)
        else:
            kind = (Conv1d, Conv2d, Conv3d)[self.dims - 1]
            conv = kind(self.in_channels, self.out_channels, 1, stride=self.stride, **options)
        return {"conv": conv, "norm": BatchNorm(self.out_channels)} if self.norm else {"conv": conv}


@dataclass(frozen=True, repr=False)
class _Spatial(Shortcut):
    """A change of spatial size, then a change of channels by another shortcut."""

    channels: Block = Identity()

    def parts(self) -> dict[str, Block]:
        """Return the shortcut over the channels."""
        return {"channels": self.channels}


@dataclass(frozen=True, repr=False)
class Crop(_Spatial):
    """The centre of the stream, cut to the branch's spatial size: what an unpadded convolution leaves.

    Args:
        channels: the shortcut that then changes the channels; `Identity` keeps them.

    Raises:
        ShapeError: a branch that is larger than the stream.

    Source: Ronneberger et al. 2015 (1505.04597), section 2, where the long skips are cropped.

    Example:
        >>> import torch
        >>> Crop().fit({}, torch.arange(5.0)[None, None], (1, 1, 3), {}, {})[0]
        tensor([[[1., 2., 3.]]])
    """

    def prepare(self, x: Tensor, shape: Shape) -> Tensor:
        """Return the centre."""
        return center_crop(x, shape[2:])


@dataclass(frozen=True, repr=False)
class Interpolate(_Spatial):
    """The stream interpolated to the branch's spatial size.

    Args:
        channels: the shortcut that then changes the channels; `Identity` keeps them.
        mode: "nearest" or "linear" (bilinear in two dimensions).

    Example:
        >>> import torch
        >>> Interpolate(mode="nearest").fit({}, torch.tensor([[[1.0, 2.0]]]), (1, 1, 4), {}, {})[0]
        tensor([[[1., 1., 2., 2.]]])
    """

    mode: Literal["nearest", "linear"] = "linear"

    def prepare(self, x: Tensor, shape: Shape) -> Tensor:
        """Return the interpolated stream."""
        return resize(x, shape[2:], self.mode)


@dataclass(frozen=True, repr=False)
class AvgPoolProject(Shortcut):
    """Average pooling by `stride`, then a 1×1 projection: no value of the stream is skipped.

    Args:
        in_channels: channels of the stream.
        out_channels: channels of the branch's output.
        stride: size and step of the pooling window; odd borders are pooled over what is there.
        norm: whether BatchNorm follows the projection, which then has no bias.
        weight_init: rule for the projection's weight.

    Raises:
        RankError: the input is not (batch, channels, height, width).

    Source: He et al. 2018 (1812.01187), figure 2c, ResNet-D.

    Example:
        >>> AvgPoolProject(3, 8).out_shape((1, 3, 5, 5))
        (1, 8, 3, 3)
    """

    in_channels: int
    out_channels: int
    stride: int = 2
    norm: bool = True
    weight_init: Initializer = KaimingUniform()

    def parts(self) -> dict[str, Block]:
        """Return the projection."""
        sizes = self.in_channels, self.out_channels
        return {"project": Project(*sizes, bias=not self.norm, norm=self.norm, weight_init=self.weight_init)}

    def prepare(self, x: Tensor, shape: Shape) -> Tensor:
        """Return the pooled stream."""
        if x.ndim != 4:
            raise RankError(f"{self}: input {tuple(x.shape)}, expected (batch, channels, height, width)")
        return x if self.stride == 1 else F.avg_pool2d(x, self.stride, ceil_mode=True, count_include_pad=False)


WAYS_OUT = (
    "padding='same' in the branch (spatial sizes), shortcut='crop' or 'interpolate' (spatial sizes), "
    "shortcut='project' (a 1×1 convolution) or 'pad' (zero channels)"
)


def mismatch(shortcut: Block, given: Shape, branch: Shape) -> str:
    """Return the message for a stream that cannot be added to a branch."""
    return (
        f"cannot add the shortcut {shortcut} of shape {tuple(given)} to the branch of shape {tuple(branch)}. "
        f"Ways out: {WAYS_OUT}"
    )
