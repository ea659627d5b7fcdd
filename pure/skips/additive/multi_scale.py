"""Res2Net: a bottleneck whose middle convolution runs over channel groups in sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import Block, Extras, Params
from pure.compose import Sequential
from pure.composite import Composite, Run
from pure.errors import ArgumentError, ShapeError
from pure.layers import Activation, AvgPool, BatchNorm
from pure.skips.additive.conv_blocks import conv1x1, conv3x3, default_shortcut
from pure.skips.additive.residual import Residual

__all__ = ["MultiScale", "res2net_block"]


@dataclass(frozen=True, repr=False)
class MultiScale(Composite):
    """y = [y₁, …, yₛ], with x = [x₁, …, xₛ] split along the channels.

    yᵢ = Kᵢ(xᵢ + yᵢ₋₁) for i < s (without y₀), Kᵢ a 3×3 convolution, BatchNorm and relu, and yₛ = xₛ. Where the block
    `restarts`, yᵢ = Kᵢ(xᵢ) and yₛ = avg₃ₓ₃(xₛ): the first block of a stage, which may stride.

    Children: "0", "1", …, each with `conv` and `norm`; then `pool`.

    Args:
        width: channels of each xᵢ.
        scales: s, at least 2.
        stride: of every convolution and of the pooling; above 1 only where the block restarts.
        groups: of every convolution.
        restarts: as above.

    Raises:
        ArgumentError: fewer than 2 scales, or a stride without a restart.
        ShapeError: an input of other channels than `width` · `scales`.

    Source: Gao et al. 2019 (1904.01169), equation 1; the first block of a stage as the authors' code and timm have it.

    Example:
        >>> block = MultiScale(2, 3)
        >>> params, state = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(1, 6, 4, 4), state).shape
        torch.Size([1, 6, 4, 4])
    """

    width: int
    scales: int
    stride: int = 1
    groups: int = 1
    restarts: bool = False

    def __post_init__(self) -> None:
        if self.scales < 2:
            raise ArgumentError(f"MultiScale scales={self.scales}: expected at least 2; one is a plain bottleneck")
        if self.stride != 1 and not self.restarts:
            raise ArgumentError(
                f"MultiScale stride={self.stride}: only a block that restarts can stride: restarts=True"
            )
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return one convolution a scale but the last, and the pooling."""
        step = Sequential(
            conv=conv3x3(self.width, self.width, self.stride, self.groups),
            norm=BatchNorm(self.width),
            act=Activation("relu"),
        )
        steps: dict[str, Block] = {str(index): step for index in range(self.scales - 1)}
        return {**steps, "pool": AvgPool(3, self.stride, 1)} if self.restarts else steps

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Tensor:
        """Return the joined scales."""
        if x.shape[1] != self.width * self.scales:
            raise ShapeError(f"{self}: input {tuple(x.shape)}, expected {self.width * self.scales} channels on axis 1")
        *given, last = x.split(self.width, 1)
        done: list[Tensor] = []
        for index, part in enumerate(given):
            fed = part + done[-1] if done and not self.restarts else part
            done.append(run(str(index), fed))
        return torch.cat([*done, run("pool", last) if self.restarts else last], 1)


def res2net_block(
    in_channels: int, out_channels: int, stride: int = 1, *, width: int, scales: int = 4, groups: int = 1
) -> Residual:
    """Return a bottleneck with `MultiScale` in the middle, restarted where the shape changes.

    Args:
        in_channels: of the stream.
        out_channels: of the branch.
        stride: of the middle and of the shortcut.
        width: channels of each scale.
        scales: how many.
        groups: of the 3×3 convolutions.

    Source: Gao et al. 2019 (1904.01169), figure 2b.

    Example:
        >>> res2net_block(8, 16, stride=2, width=3).out_shape((1, 8, 6, 6))
        (1, 16, 3, 3)
    """
    changes = stride != 1 or in_channels != out_channels
    branch = Sequential(
        conv1=conv1x1(in_channels, width * scales),
        bn1=BatchNorm(width * scales),
        act1=Activation("relu"),
        scales=MultiScale(width, scales, stride, groups, restarts=changes),
        conv3=conv1x1(width * scales, out_channels),
        bn3=BatchNorm(out_channels),
    )
    return Residual(branch, default_shortcut(in_channels, out_channels, stride), activation="relu")
