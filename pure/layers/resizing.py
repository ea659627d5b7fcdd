"""Parameter-free functions that change a tensor's channels or spatial size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from pure.errors import ArgumentError, ShapeError

__all__ = ["center_crop", "pad_channels", "resize"]


def pad_channels(x: Tensor, channels: int, where: Literal["append", "centred"] = "append") -> Tensor:
    """Zero-pad axis 1 of (batch, channels, …) up to `channels`, as ResNet's option A.

    Args:
        x: the input.
        channels: how many channels the output has; at least the input's.
        where: "append" puts the zeros behind, "centred" half in front (rounded down) and the rest behind.

    Raises:
        ShapeError: the input has more channels than `channels`.
        ArgumentError: an unknown `where`.

    Example:
        >>> import torch
        >>> pad_channels(torch.ones(1, 2), 5, "centred")
        tensor([[0., 1., 1., 0., 0.]])
    """
    missing = channels - x.shape[1]
    if missing < 0:
        raise ShapeError(f"pad_channels: {x.shape[1]} channels cannot be padded to {channels}: project instead")
    if where not in ("append", "centred"):
        raise ArgumentError(f"pad_channels where={where!r}: expected 'append' or 'centred'")
    front = missing // 2 if where == "centred" else 0
    return F.pad(x, (*(0, 0) * (x.ndim - 2), front, missing - front)) if missing else x


def center_crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """Crop the spatial axes of (batch, channels, *space) to the central `size`.

    An odd surplus takes one more value off the end.

    Raises:
        ShapeError: another number of sizes than spatial axes, or a size larger than the input's.
    """
    space = x.shape[2:]
    if len(size) != len(space) or any(want > have for want, have in zip(size, space, strict=True)):
        raise ShapeError(
            f"center_crop: cannot cut {tuple(size)} out of the spatial axes {tuple(space)} of {tuple(x.shape)}"
        )
    for axis, (have, want) in enumerate(zip(space, size, strict=True), start=2):
        x = x.narrow(axis, (have - want) // 2, want)
    return x


def resize(x: Tensor, size: Sequence[int], mode: Literal["nearest", "linear"] = "linear") -> Tensor:
    """Interpolate the spatial axes of (batch, channels, *space) to `size`.

    "linear" is linear, bilinear or trilinear, by the number of spatial axes.

    Raises:
        ShapeError: another number of sizes than spatial axes.
        ArgumentError: an unknown mode, or linear interpolation of more than three spatial axes.
    """
    dims = x.ndim - 2
    if len(size) != dims:
        raise ShapeError(f"resize: sizes {tuple(size)} for {dims} spatial axes of {tuple(x.shape)}")
    if mode not in ("nearest", "linear") or not 1 <= dims <= 3:
        raise ArgumentError(f"resize mode={mode!r} of {dims} spatial axes: expected 'nearest' or 'linear', 1 to 3 axes")
    if mode == "nearest":
        return F.interpolate(x, size=tuple(size), mode="nearest")
    return F.interpolate(x, size=tuple(size), mode=("linear", "bilinear", "trilinear")[dims - 1], align_corners=False)
