"""Shake-Shake: two branches mixed by a random share, another one in the backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import Block, Params, Shape
from pure.compose import Parallel, Sequential
from pure.errors import NoiseError, ShapeError
from pure.initializers import Device, check_generator
from pure.layers import Activation, BatchNorm
from pure.layers.alignment import align
from pure.leaf import Leaf
from pure.skips.additive.conv_blocks import conv3x3, default_shortcut
from pure.skips.additive.residual import Residual

__all__ = ["Shake", "shake_shake_block"]


@dataclass(frozen=True, repr=False)
class Shake(Leaf):
    """y = α x₁ + (1 − α) x₂ for x = [x₁, x₂] along axis 1; in evaluation α = ½.

    In training α is drawn for each sample, and the gradient that goes back has another share β in its place, as if y
    were β x₁ + (1 − β) x₂.

    Noise: `forward` (α) and `backward` (β), each (batch,), uniform on [0, 1).

    Raises:
        ShapeError: an odd size of axis 1.
        NoiseError: training without noise, or with noise for another batch.

    Source: Gastaldi 2017 (1705.07485), section 1.2, "Shake-Shake-Image".

    Example:
        >>> Shake()({}, torch.tensor([[1.0, 3.0]]))
        tensor([[2.]])
    """

    @property
    def stochastic(self) -> bool:
        """Training always draws."""
        return True

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw α and β."""
        where = check_generator(generator).device
        shares = torch.rand(2, x_shape[0], generator=generator, device=where).to(device=device, dtype=dtype)
        return {"forward": shares[0], "backward": shares[1]}

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.ndim < 2 or x.shape[1] % 2:
            raise ShapeError(f"Shake: input {tuple(x.shape)}, expected two halves of one size along axis 1")
        first, second = x.split(x.shape[1] // 2, 1)
        return first, second

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the mean."""
        first, second = self._halves(x)
        return (first + second) / 2

    def forward_training(self, params: Params, x: Any, noise: Any) -> Tensor:
        """Return the halves mixed by the shares in `noise`."""
        first, second = self._halves(x)
        shares = []
        for name in ("forward", "backward"):
            share = noise[name]
            if share.shape != (x.shape[0],):
                raise NoiseError(
                    f"Shake: {name} {tuple(share.shape)} for an input {tuple(x.shape)}: draw it for this one"
                )
            shares.append(align(share.to(x.dtype), x))
        alpha, beta = shares
        followed = beta * first + (1 - beta) * second
        mixed: Tensor = followed + ((alpha - beta) * (first - second)).detach()
        return mixed


def shake_shake_block(
    in_channels: int, out_channels: int, stride: int = 1, *, shortcut: Block | None = None
) -> Residual:
    """Return S(x) + α f₁(x) + (1 − α) f₂(x), each f relu, conv, BN, relu, conv, BN with 3×3 convolutions.

    Args:
        in_channels: of the stream.
        out_channels: of the branches.
        stride: of the first convolutions and of the shortcut.
        shortcut: S; None is the identity, or a projection with BatchNorm where the shape changes.

    Source: Gastaldi 2017 (1705.07485), section 2.1.

    Example:
        >>> shake_shake_block(4, 4).out_shape((2, 4, 5, 5))
        (2, 4, 5, 5)
    """
    path = Sequential(
        act1=Activation("relu"),
        conv1=conv3x3(in_channels, out_channels, stride),
        bn1=BatchNorm(out_channels),
        act2=Activation("relu"),
        conv2=conv3x3(out_channels, out_channels),
        bn2=BatchNorm(out_channels),
    )
    around = default_shortcut(in_channels, out_channels, stride) if shortcut is None else shortcut
    return Residual(Sequential(paths=Parallel(path, path, join="concat"), mix=Shake()), around)
