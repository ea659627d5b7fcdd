"""FractalNet: parallel columns of different depths, joined by their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import Block, Extras, Params, Shape
from pure.compose import Sequential
from pure.composite import Composite, Run
from pure.errors import ArgumentError, NoiseError, ShapeError
from pure.initializers import Device, check_generator
from pure.layers import Activation, BatchNorm
from pure.layers.alignment import align
from pure.leaf import Leaf
from pure.skips.additive.conv_blocks import conv3x3
from pure.tags import tag

__all__ = ["Fractal", "FractalJoin"]


@dataclass(frozen=True, repr=False)
class FractalJoin(Leaf):
    """y = mean over axis 1 of (batch, columns, …); in training the mean of the columns that are kept.

    Noise: `mask` (batch, columns), 1 where a column is kept; at least one is, for each sample.

    Args:
        columns: how many.
        rate: the probability of dropping a column, in [0, 1).

    Raises:
        ArgumentError: fewer than 1 column, or a rate outside [0, 1).
        ShapeError: an input of another number of columns.
        NoiseError: training with a positive rate and no noise, or with noise for another batch.

    Source: Larsson et al. 2016 (1605.07648), section 3.1, local drop-path.

    Example:
        >>> FractalJoin(2)({}, torch.tensor([[[1.0], [3.0]]]))
        tensor([[2.]])
    """

    columns: int
    rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.columns < 1 or not 0 <= self.rate < 1:
            raise ArgumentError(f"columns={self.columns}, rate={self.rate}: expected at least 1, and a rate in [0, 1)")

    @property
    def stochastic(self) -> bool:
        """Whether anything is dropped."""
        return self.rate > 0

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw which columns are kept; where none is, one of them at random."""
        if not self.rate:
            return {}
        where = check_generator(generator).device
        shape = x_shape[0], self.columns
        kept = torch.rand(shape, generator=generator, device=where) >= self.rate
        order = torch.rand(shape, generator=generator, device=where)
        spare = order == order.amax(1, keepdim=True)
        return {"mask": torch.where(kept.any(1, keepdim=True), kept, spare).to(device=device, dtype=dtype)}

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the mean of all columns."""
        if x.ndim < 3 or x.shape[1] != self.columns:
            raise ShapeError(f"{self}: input {tuple(x.shape)}, expected (batch, {self.columns}, …)")
        mean: Tensor = x.mean(1)
        return mean

    def forward_training(self, params: Params, x: Any, noise: Any) -> Tensor:
        """Return the mean of the columns that the mask keeps."""
        if not self.rate:
            return self.forward(params, x)
        mask = noise["mask"]
        if mask.shape != x.shape[:2]:
            raise NoiseError(f"{self}: mask {tuple(mask.shape)} for an input {tuple(x.shape)}: draw it for this one")
        share = mask.to(x.dtype) / mask.sum(1, keepdim=True).to(x.dtype)
        kept: Tensor = (x * align(share, x)).sum(1)
        return kept


@dataclass(frozen=True, repr=False)
class Fractal(Composite):
    """f₁(x) = conv(x); f₍c₊₁₎(x) = mean of f_c(f_c(x)) and conv(x), joins that meet merged into one mean.

    Each conv is a 3×3 convolution, BatchNorm and relu. Column j has one in every 2ʲ of the 2^(columns − 1) levels.

    Children: `column0_0`, …: column and position in it, each with `conv` and `norm`; `join1`, …: by level.

    Tags: "stream" (y).

    Args:
        in_channels: of the input.
        out_channels: of every convolution.
        columns: how many, c.
        rate: the probability of dropping a column at a join, for each sample (local drop-path).

    Raises:
        ArgumentError: fewer than 1 column, or a rate outside [0, 1).

    Source: Larsson et al. 2016 (1605.07648), equation 2 and figure 1.

    Example:
        >>> Fractal(3, 4, columns=2).out_shape((1, 3, 5, 5))
        (1, 4, 5, 5)
    """

    in_channels: int
    out_channels: int
    columns: int
    rate: float = 0.0

    def __post_init__(self) -> None:
        FractalJoin(self.columns, self.rate)
        super().__post_init__()

    def _levels(self) -> list[list[int]]:
        """Return the columns that end in a convolution at each level."""
        return [
            [j for j in range(self.columns) if level % 2**j == 0] for level in range(1, 2 ** (self.columns - 1) + 1)
        ]

    def parts(self) -> dict[str, Block]:
        """Return the convolutions and the joins, level by level."""
        found: dict[str, Block] = {}
        for level, active in enumerate(self._levels(), start=1):
            for j in active:
                index = level // 2**j - 1
                channels = self.in_channels if index == 0 else self.out_channels
                found[f"column{j}_{index}"] = Sequential(
                    conv=conv3x3(channels, self.out_channels),
                    norm=BatchNorm(self.out_channels),
                    act=Activation("relu"),
                )
            if len(active) > 1:
                found[f"join{level}"] = FractalJoin(len(active), self.rate)
        return found

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Tensor:
        """Return the last join."""
        ends = [x] * self.columns
        for level, active in enumerate(self._levels(), start=1):
            outs = [run(f"column{j}_{level // 2**j - 1}", ends[j]) for j in active]
            joined = outs[0] if len(outs) == 1 else run(f"join{level}", torch.stack(outs, 1))
            for j in active:
                ends[j] = joined
        result: Tensor = tag(ends[0], "stream")
        return result
