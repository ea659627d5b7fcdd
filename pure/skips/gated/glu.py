"""Gated linear units: y = down(activation(gate x) ⊙ up x)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from pure.block import Block, Extras, Params
from pure.composite import Composite, Run
from pure.errors import ArgumentError
from pure.initializers import Initializer, KaimingUniform
from pure.layers.activation import ActivationLike, activation
from pure.layers.dropout import Dropout
from pure.layers.linear import Linear
from pure.tags import tag

__all__ = ["GLU"]

Fused = Literal["gate_up", "up_gate"]
GATES = ("sigmoid", "hardsigmoid")
"""The activations whose value is a gate, between 0 and 1."""


@dataclass(frozen=True, repr=False)
class GLU(Composite):
    """y = down(activation(gate x) ⊙ up x), the gated feed-forward layer, over the last axis.

    "silu" is SwiGLU, "gelu" GEGLU, "relu" ReGLU, "sigmoid" the first GLU.

    Children: `gate`, `up` and `down`, all Linear; with `fused` the first two are one Linear, named as its rows are
    ordered: `gate_up` (packed SwiGLU) or `up_gate` (the order of `torch.nn.functional.glu`). Then `norm`, if given.

    Tags: "gate" (activation(gate x)), where the activation stays between 0 and 1.

    Args:
        features: size of the last axis of x.
        hidden: size of the gate.
        activation: name of the function of the gate.
        bias: whether all three have a bias.
        out_features: size of the last axis of y; None is `features`.
        fused: "gate_up" or "up_gate" for one projection of size 2 · hidden; None for two.
        norm: a block between the product and `down`.
        dropout: rate of dropping values of the product, in training.
        weight_init: rule for the weights of gate and up.
        down_init: rule for the weight of `down`; zeros there make `Residual(GLU(…))` the identity at first.

    Raises:
        ArgumentError: an unknown activation or order, or sizes below 1.

    Source: Dauphin et al. 2016 (1612.08083), equation 1; Shazeer 2020 (2002.05202), equation 6.

    Example:
        >>> import torch
        >>> block = GLU(4, 6, bias=False)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> sorted(params), block(params, torch.ones(2, 3, 4)).shape
        (['down', 'gate', 'up'], torch.Size([2, 3, 4]))
    """

    features: int
    hidden: int
    activation: ActivationLike = "silu"
    bias: bool = True
    out_features: int | None = None
    fused: Fused | None = None
    norm: Block | None = None
    dropout: float = 0.0
    weight_init: Initializer = KaimingUniform()
    down_init: Initializer = KaimingUniform()

    def __post_init__(self) -> None:
        activation(self.activation)
        if self.fused is not None and self.fused not in get_args(Fused):
            raise ArgumentError(f"GLU fused={self.fused!r}: expected None or one of {', '.join(get_args(Fused))}")
        if self.features < 1 or self.hidden < 1:
            raise ArgumentError(f"GLU features={self.features}, hidden={self.hidden}: expected at least 1")
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the projections, and norm and dropout where there are any."""
        sizes = {self.fused: 2 * self.hidden} if self.fused else {"gate": self.hidden, "up": self.hidden}
        found: dict[str, Block] = {
            name: Linear(self.features, size, bias=self.bias, weight_init=self.weight_init)
            for name, size in sizes.items()
        }
        if self.norm is not None:
            found["norm"] = self.norm
        if self.dropout:
            found["drop"] = Dropout(self.dropout)
        out = self.features if self.out_features is None else self.out_features
        found["down"] = Linear(self.hidden, out, bias=self.bias, weight_init=self.down_init)
        return found

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return y."""
        if self.fused is None:
            gate, up = run("gate", x), run("up", x)
        else:
            both = run(self.fused, x)
            first, second = both[..., : self.hidden], both[..., self.hidden :]
            gate, up = (first, second) if self.fused == "gate_up" else (second, first)
        gate = activation(self.activation)(gate)
        h = (tag(gate, "gate", kind="gate") if self.activation in GATES else gate) * up
        if self.norm is not None:
            h = run("norm", h)
        return run("down", run("drop", h) if self.dropout else h)
