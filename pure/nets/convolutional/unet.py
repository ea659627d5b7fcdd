"""A U-Net of any depth and rank, nested from the long skip."""

from __future__ import annotations

from typing import Literal

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.initializers import Initializer, KaimingNormal
from pure.layers import Activation, BatchNorm, Conv1d, Conv2d, Conv3d, MaxPool
from pure.layers.axes import Upsample
from pure.skips.additive.long_skip import LongSkip
from pure.skips.additive.shortcut import Crop, Identity

__all__ = ["unet"]


def unet(
    in_channels: int,
    out_channels: int,
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024),
    *,
    dims: Literal[1, 2, 3] = 2,
    padding: Literal[0, 1] = 1,
    norm: bool = False,
    weight_init: Initializer = KaimingNormal(),
) -> Block:
    """Return a U-Net: a 1×1 convolution of u₀, the finest level.

    u_i(x) = D[e, up(u_{i+1}(maxpool₂ e))] with e = E x; the last level is E alone.
    (batch, in_channels, …) → (batch, out_channels, …), with `dims` axes of space; 28,942,850 parameters for 3 and 2
    channels.
    E and D are two 3×3 convolutions with relu; up repeats each value twice along every axis and mixes the channels by a
    1×1 convolution. Children: `encode`, `skip.branch.level` (the next level), `decode`, `head`.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output.
        widths: channels of each level, the finest first.
        dims: number of spatial axes, 1 to 3.
        padding: 1 keeps the size of the map, which must halve evenly at each level; 0 is the paper's, whose skips are
            cropped.
        norm: BatchNorm before each relu.
        weight_init: rule for the convolutions, He's by default.

    Raises:
        ArgumentError: no widths, or `dims` or `padding` of another value.
        ShapeError: on the call, with padding, a map that does not halve evenly.

    Source: Ronneberger et al. 2015 (1505.04597), section 2 and figure 1.

    Example:
        >>> unet(3, 2, (4, 8, 16)).out_shape((1, 3, 16, 16))
        (1, 2, 16, 16)
    """
    if not widths or dims not in (1, 2, 3) or padding not in (0, 1):
        raise ArgumentError(
            f"unet widths={widths}, dims={dims}, padding={padding}: expected widths, 1 to 3, and 0 or 1"
        )
    kind = (Conv1d, Conv2d, Conv3d)[dims - 1]

    def twice(before: int, after: int) -> Block:
        parts: dict[str, Block] = {}
        for index, width in enumerate((before, after), start=1):
            parts[f"conv{index}"] = kind(width, after, 3, padding=padding, bias=not norm, weight_init=weight_init)
            if norm:
                parts[f"norm{index}"] = BatchNorm(after)
            parts[f"relu{index}"] = Activation("relu")
        return Sequential(**parts)

    def level(index: int, before: int) -> dict[str, Block]:
        width = widths[index]
        parts = {"encode": twice(before, width)}
        if index + 1 < len(widths):
            below = Sequential(
                down=MaxPool(2),
                level=Sequential(**level(index + 1, width)),
                up=Upsample(2),
                reduce=kind(widths[index + 1], width, 1, weight_init=weight_init),
            )
            parts["skip"] = LongSkip(below, shortcut=Identity() if padding else Crop())
            parts["decode"] = twice(2 * width, width)
        return parts

    return Sequential(**level(0, in_channels), head=kind(widths[0], out_channels, 1, weight_init=weight_init))
