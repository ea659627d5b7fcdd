"""A residual branch behind one learnt gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pure.block import Block, Extras, Params
from pure.composite import Composite, Run
from pure.errors import ShapeError
from pure.initializers import Constant, Device
from pure.layers.activation import ActivationLike, activation
from pure.skips.streams.stream_axis import owned
from pure.tags import tag

__all__ = ["ScalarGate"]


@dataclass(frozen=True, repr=False)
class ScalarGate(Composite):
    """y = x + g(k) · f(x) with one learnt scalar k.

    With g = relu and k = 1 this is the gated residual layer: for F(x) = x + f(x) it equals g F(x) + (1 − g) x. With
    g = tanh and k = 0 it is the gate of Flamingo, the identity at first.

    Leaves: `branch`, `gate` of shape ().

    Tags: "branch" (g(k) · f(x)), "stream" (y).

    Args:
        branch: f, a block that keeps the input's shape.
        activation: g by name.
        value: k at first.

    Raises:
        ArgumentError: an unknown activation.
        ShapeError: f(x) differs from x in shape.

    Source: Savarese et al. 2016 (1611.01260), section 3; Alayrac et al. 2022 (2204.14198), section 2.2.

    Example:
        >>> from pure.layers import Linear
        >>> block = ScalarGate(Linear(2, 2), "tanh", 0.0)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.tensor([[1.0, -2.0]]))
        tensor([[ 1., -2.]])
    """

    branch: Block
    activation: ActivationLike = "relu"
    value: float = 1.0

    def __post_init__(self) -> None:
        activation(self.activation)
        super().__post_init__()

    def own(self, generator: torch.Generator, dtype: torch.dtype, device: Device) -> Params:
        """Return k."""
        return {"gate": Constant(self.value)((), generator, dtype, device)}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return y."""
        f = run("branch", x)
        if f.shape != x.shape:
            raise ShapeError(
                f"ScalarGate: branch {tuple(f.shape)} for input {tuple(x.shape)}: expected one shape: project before it"
            )
        gate = activation(self.activation)(owned(self, params, "gate", (), x))
        return tag(x + tag(gate * f, "branch", kind="branch"), "stream")
