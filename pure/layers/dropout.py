"""Dropout by a pre-drawn mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pure.block import Params, Shape, State
from pure.errors import ArgumentError, NoiseError
from pure.initializers import Device, check_generator
from pure.leaf import Leaf

__all__ = ["Dropout"]


@dataclass(frozen=True, repr=False)
class Dropout(Leaf):
    """In training, y = x · mask / (1 − rate) with mask ~ Bernoulli(1 − rate); in evaluation the identity.

    Noise: `mask`, of the input's shape, 1 where a value is kept.

    Args:
        rate: the probability of dropping a value, in [0, 1).

    Raises:
        ArgumentError: a rate outside [0, 1).
        NoiseError: training with a positive rate and no noise.

    Source: Srivastava et al. 2014, section 4, with the inverted scaling that PyTorch uses.

    Example:
        >>> block = Dropout(0.5)
        >>> noise = block.noise((2, 3), torch.Generator().manual_seed(0))
        >>> y, _ = block.apply({}, torch.ones(2, 3), {}, {}, training=True, noise=noise)
        >>> sorted(set(y.flatten().tolist()))
        [0.0, 2.0]
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rate < 1:
            raise ArgumentError(f"Dropout rate {self.rate!r}: expected a probability of dropping in [0, 1)")

    @property
    def stochastic(self) -> bool:
        """Whether anything is dropped."""
        return self.rate > 0

    def noise(
        self, x_shape: Shape, generator: torch.Generator, *, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> Any:
        """Draw the mask."""
        where = check_generator(generator).device
        uniform = torch.rand(tuple(x_shape), generator=generator, device=where)
        return {"mask": (uniform >= self.rate).to(device=device, dtype=dtype)} if self.rate else {}

    def forward(self, params: Params, x: Any) -> Any:
        """Return `x`."""
        return x

    def apply(
        self,
        params: Params,
        x: Any,
        state: State,
        extras: Mapping[str, Any],
        training: bool = False,
        noise: Any = None,
    ) -> tuple[Any, State]:
        """Drop values in training, by the mask in `noise`."""
        if not training or not self.rate:
            return x, state
        if not noise:
            raise NoiseError(f"{self}: training needs the mask: pass noise=block.noise(x.shape, generator)")
        if noise["mask"].shape != x.shape:
            raise NoiseError(
                f"{self}: mask {tuple(noise['mask'].shape)} for an input {tuple(x.shape)}: draw it for this one"
            )
        return x * (noise["mask"].to(x.dtype) / (1 - self.rate)), state

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)
