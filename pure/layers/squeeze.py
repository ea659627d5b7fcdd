"""Squeeze-and-excitation: each channel times a gate that sees the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pure.block import Block, Extras, Params, Shape
from pure.composite import Composite, Run
from pure.errors import ArgumentError, RankError
from pure.initializers import Initializer, KaimingUniform
from pure.layers.activation import ActivationLike, activation
from pure.layers.conv import Conv2d, divisible
from pure.tags import tag

__all__ = ["SqueezeExcite"]


@dataclass(frozen=True, repr=False)
class SqueezeExcite(Composite):
    """y = x ⊙ gate(W₂ φ(W₁ mean(x) + b₁) + b₂), one gate a channel.

    Children: `fc1` and `fc2`, 1×1 convolutions with biases.

    Tags: "gate" (batch, channels, 1, 1).

    Args:
        channels: of the input.
        hidden: channels between the two convolutions; None is a sixteenth of `channels`, a multiple of 8.
        activation: φ by name.
        gate: the gate's function by name, "sigmoid" or "hardsigmoid".
        weight_init: rule for both weights.

    Raises:
        ArgumentError: no channels, or an unknown function.
        RankError: the input is not (batch, channels, height, width).

    Source: Hu et al. 2017 (1709.01507), equations 2 to 4.

    Example:
        >>> import torch
        >>> block = SqueezeExcite(4, 2)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(1, 4, 3, 3)).shape
        torch.Size([1, 4, 3, 3])
    """

    channels: int
    hidden: int | None = None
    activation: ActivationLike = "relu"
    gate: ActivationLike = "sigmoid"
    weight_init: Initializer = KaimingUniform()

    def __post_init__(self) -> None:
        if self.channels < 1 or (self.hidden is not None and self.hidden < 1):
            raise ArgumentError(f"SqueezeExcite channels={self.channels}, hidden={self.hidden}: expected at least 1")
        activation(self.activation)
        activation(self.gate)
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the two convolutions."""
        hidden = divisible(self.channels / 16, keep=0.0) if self.hidden is None else self.hidden
        return {
            "fc1": Conv2d(self.channels, hidden, 1, weight_init=self.weight_init),
            "fc2": Conv2d(hidden, self.channels, 1, weight_init=self.weight_init),
        }

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Tensor:
        """Return the gated channels."""
        if x.ndim != 4:
            raise RankError(
                f"{self}: input {tuple(x.shape)}, expected (batch, {self.channels}, height, width): "
                "one sample: x.unsqueeze(0)"
            )
        hidden = activation(self.activation)(run("fc1", x.mean((2, 3), keepdim=True)))
        gate = tag(activation(self.gate)(run("fc2", hidden)), "gate", kind="gate")
        result: Tensor = x * gate
        return result

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(x_shape)
