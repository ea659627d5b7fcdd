"""The affine map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.block import Params, Shape, State
from pure.errors import RankError, ShapeError
from pure.initializers import Device, Initializer, KaimingUniform, Uniform, fan_in
from pure.leaf import Leaf, describe

__all__ = ["Linear"]


def default_bias(weight_shape: Shape) -> Uniform:
    """Return PyTorch's bias rule for a weight of `weight_shape`: uniform within 1/√fan_in."""
    fan = fan_in(weight_shape)
    bound = 1 / math.sqrt(fan) if fan else 0.0
    return Uniform(-bound, bound)


@dataclass(frozen=True, repr=False)
class Linear(Leaf):
    """y = x Wᵀ + b over the last axis.

    Leaves: `weight` (out_features, in_features), `bias` (out_features,). The default initial values are, bit for bit,
    those of `torch.nn.Linear` built under `torch.manual_seed` with the generator's seed.

    Args:
        in_features: size of the input's last axis.
        out_features: size of the output's last axis.
        bias: whether there is a bias.
        weight_init: rule for the weight.
        bias_init: rule for the bias; None is uniform within 1/√in_features.

    Raises:
        RankError: the input has no batch axis.
        ShapeError: the input's last axis is not `in_features`.

    Example:
        >>> params, state = Linear(3, 2).init(torch.Generator().manual_seed(0))
        >>> Linear(3, 2)(params, torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    in_features: int
    out_features: int
    bias: bool = True
    weight_init: Initializer = KaimingUniform()
    bias_init: Initializer | None = None

    def leaf_names(self) -> tuple[str, ...]:
        """Return the names of the parameters."""
        return ("weight", "bias") if self.bias else ("weight",)

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32, device: Device = "cpu"
    ) -> tuple[Params, State]:
        """Draw the weight, then the bias."""
        shape = (self.out_features, self.in_features)
        params: Params = {"weight": self.weight_init(shape, generator, dtype, device)}
        if self.bias:
            rule = self.bias_init or default_bias(shape)
            params["bias"] = rule((self.out_features,), generator, dtype, device)
        return params, {}

    def forward(self, params: Params, x: Any) -> Tensor:
        """Return the affine map of (batch, …, in_features): (batch, …, out_features)."""
        if x.ndim < 2:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, …, {self.in_features}): add x.unsqueeze(0)")
        weight, bias = params["weight"], params["bias"] if self.bias else None
        # A bias of the right size fits no other weight, unless it has one value and is broadcast.
        if (bias is None or self.out_features == 1) and weight.shape[0] != self.out_features:
            raise RuntimeError(f"weight {tuple(weight.shape)}")
        if bias is not None and bias.numel() != self.out_features:
            raise RuntimeError(f"bias {tuple(bias.shape)}")
        return F.linear(x, weight, bias)

    def out_shape(self, x_shape: Shape) -> Shape:
        """Return (batch, …, out_features).

        Raises:
            ShapeError: the last axis is not `in_features`.
        """
        if len(x_shape) < 2 or x_shape[-1] != self.in_features:
            raise ShapeError(f"{self}: input {tuple(x_shape)}, expected (batch, …, {self.in_features})")
        return (*x_shape[:-1], self.out_features)
