"""Dropout of values and of whole branches, by pre-drawn masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pure.block import Params, Shape
from pure.errors import ArgumentError, NoiseError
from pure.initializers import Device, check_generator
from pure.layers.alignment import align
from pure.leaf import Leaf

__all__ = ["DropPath", "Dropout"]


@dataclass(frozen=True, repr=False)
class _Masked(Leaf):
    """y = x · mask / keep in training, x in evaluation."""

    rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rate < 1:
            raise ArgumentError(
                f"{type(self).__name__} rate {self.rate!r}: expected a probability of dropping in [0, 1)"
            )

    def mask_shape(self, x_shape: Shape) -> Shape:
        """Return the shape of the mask for an input of `x_shape`."""
        raise NotImplementedError

    @property
    def stochastic(self) -> bool:
        """Whether anything is dropped."""
        return self.rate > 0

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw the mask, 1 where something is kept."""
        where = check_generator(generator).device
        uniform = torch.rand(self.mask_shape(tuple(x_shape)), generator=generator, device=where)
        return {"mask": (uniform >= self.rate).to(device=device, dtype=dtype)} if self.rate else {}

    def forward(self, params: Params, x: Any) -> Any:
        """Return `x`."""
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"input is {type(x).__name__}")
        return x

    def forward_training(self, params: Params, x: Any, noise: Any) -> Any:
        """Drop by the mask in `noise`."""
        if not self.rate:
            return self.forward(params, x)
        mask = noise["mask"]
        if mask.shape != self.mask_shape(x.shape):
            raise NoiseError(f"{self}: mask {tuple(mask.shape)} for an input {tuple(x.shape)}: draw it for this one")
        return x * align(mask.to(x.dtype) / (1 - self.rate), x)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)


@dataclass(frozen=True, repr=False)
class Dropout(_Masked):
    """In training, y = x · mask / (1 − rate) with mask ~ Bernoulli(1 − rate) a value; in evaluation the identity.

    Noise: `mask`, of the input's shape, 1 where a value is kept.

    Args:
        rate: the probability of dropping a value, in [0, 1).

    Raises:
        ArgumentError: a rate outside [0, 1).
        NoiseError: training with a positive rate and no noise, or with noise for another input.

    Source: Srivastava et al. 2014, section 4, with the inverted scaling that PyTorch uses.

    Example:
        >>> block = Dropout(0.5)
        >>> noise = block.noise((2, 3), torch.Generator().manual_seed(0))
        >>> y, _ = block.apply({}, torch.ones(2, 3), {}, {}, training=True, noise=noise)
        >>> sorted(set(y.flatten().tolist()))
        [0.0, 2.0]
    """

    def mask_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)


@dataclass(frozen=True, repr=False)
class DropPath(_Masked):
    """In training, y = x · b / (1 − rate) with b ~ Bernoulli(1 − rate) a sample: stochastic depth for a branch.

    One mask a sample, never one a batch; survivors are rescaled. At the end of a branch:
    `Residual(Sequential(f=branch, drop=DropPath(0.1)))`.

    Noise: `mask` (batch,), 1 where a sample's branch is kept.

    Args:
        rate: the probability of dropping a sample's branch, in [0, 1); 1 − the paper's survival probability.

    Raises:
        ArgumentError: a rate outside [0, 1).
        NoiseError: training with a positive rate and no noise, or with noise for another batch.

    Source: Huang et al. 2016 (1603.09382), section 3, rescaled in training instead of in evaluation.

    Example:
        >>> block = DropPath(0.5)
        >>> y, _ = block.apply({}, torch.ones(2, 3), {}, {}, True, {"mask": torch.tensor([1.0, 0.0])})
        >>> y
        tensor([[2., 2., 2.],
                [0., 0., 0.]])
    """

    def mask_shape(self, x_shape: Shape) -> Shape:
        """Return (batch,)."""
        return tuple(x_shape[:1])

    @staticmethod
    def linear(rate: float, depth: int) -> tuple[float, ...]:
        """Return linearly rising rates of `depth` branches: rate · i / (depth − 1), as in timm.

        >>> DropPath.linear(0.2, 3)
        (0.0, 0.1, 0.2)
        """
        return tuple(rate * index / max(depth - 1, 1) for index in range(depth))
