"""Gated skips: y = T ⊙ H(x) + (1 − T) ⊙ x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pure.block import Block, Extras, Params
from pure.compose.chain import Sequential
from pure.composite import Composite, Run
from pure.errors import ShapeError
from pure.initializers import Constant
from pure.layers.activation import Activation, ActivationLike
from pure.layers.linear import Linear
from pure.tags import tag

__all__ = ["Highway"]


@dataclass(frozen=True, repr=False)
class Highway(Composite):
    """y = T ⊙ H(x) + (1 − T) ⊙ x with T = σ(gate(x)) the transform gate.

    Tags: "gate" (T), "branch" (T ⊙ H(x)), "stream" (y).

    Args:
        transform: H, a block that keeps the input's shape.
        gate: the block before the sigmoid; start its bias at −1 … −3, so that the stream is carried at first.

    Raises:
        ShapeError: H(x) or T differs from x in shape.

    Source: Srivastava et al. 2015 (1505.00387), equation 3; gate bias, "Training Deep Highway Networks".

    Example:
        >>> block = Highway.dense(8, gate_bias=-2.0)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 8)).shape
        torch.Size([2, 8])
    """

    transform: Block
    gate: Block

    @classmethod
    def dense(cls, features: int, *, gate_bias: float = -2.0, activation: ActivationLike = "relu") -> Highway:
        """Return the dense layer: H(x) = activation(W x + b), gate(x) = W′ x + gate_bias."""
        transform = Sequential(linear=Linear(features, features), act=Activation(activation))
        return cls(transform, Linear(features, features, bias_init=Constant(gate_bias)))

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the mix."""
        h, logit = run("transform", x), run("gate", x)
        if h.shape != x.shape or logit.shape != x.shape:
            raise ShapeError(
                f"Highway: input {tuple(x.shape)}, transform {tuple(h.shape)}, gate {tuple(logit.shape)}: expected one "
                "shape: change width before the first highway layer"
            )
        t = tag(torch.sigmoid(logit), "gate", kind="gate")
        return tag(tag(t * h, "branch", kind="branch") + (1 - t) * x, "stream")
