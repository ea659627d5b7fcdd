"""Recurrent highway layers: several highway layers a time step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pure.block import Block, Extras, Params
from pure.composite import Composite, Run
from pure.errors import ArgumentError, RankError
from pure.initializers import Constant
from pure.layers.linear import Linear
from pure.tags import tag

__all__ = ["RecurrentHighway"]


@dataclass(frozen=True, repr=False)
class RecurrentHighway(Composite):
    """sₗ = hₗ ⊙ tₗ + sₗ₋₁ ⊙ (1 − tₗ) for l = 1 … depth in every time step, s₀ the last step's s_depth, 0 at first.

    hₗ = tanh(W_H x [l = 1] + Rₗ sₗ₋₁ + bₗ) and tₗ = σ(W_T x [l = 1] + R′ₗ sₗ₋₁ + b′ₗ), carry and transform gates
    coupled. Takes (batch, time, in_features), gives s_depth of every step: (batch, time, features).

    Children: `input` (W_H) and `input_gate` (W_T), without biases; `transform0`, `gate0`, … (Rₗ and R′ₗ).

    Tags: "gate" (tₗ), "branch" (hₗ ⊙ tₗ) and "stream" (sₗ), step by step and layer by layer.

    Args:
        in_features: size of the last axis of the input.
        features: size of the state.
        depth: highway layers a time step.
        gate_bias: every b′ₗ at first; negative, so that the state is carried.

    Raises:
        ArgumentError: a depth below 1.
        RankError: the input is not (batch, time, in_features).

    Source: Zilly et al. 2016 (1607.03474), equations 6 to 9, with c = 1 − t of section 5.

    Example:
        >>> block = RecurrentHighway(3, 4, depth=2)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 5, 3)).shape
        torch.Size([2, 5, 4])
    """

    in_features: int
    features: int
    depth: int = 2
    gate_bias: float = -2.0

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ArgumentError(f"RecurrentHighway depth={self.depth}: expected at least 1")
        super().__post_init__()

    def parts(self) -> dict[str, Block]:
        """Return the maps of the input, then those of the state."""
        given = Linear(self.in_features, self.features, bias=False)
        found: dict[str, Block] = {"input": given, "input_gate": given}
        for index in range(self.depth):
            found[f"transform{index}"] = Linear(self.features, self.features)
            found[f"gate{index}"] = Linear(self.features, self.features, bias_init=Constant(self.gate_bias))
        return found

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the state after every time step."""
        if x.ndim != 3:
            raise RankError(f"{self}: input {tuple(x.shape)}, expected (batch, time, {self.in_features})")
        given, given_gate = run("input", x), run("input_gate", x)
        s = torch.zeros_like(given[:, 0])
        states = []
        for time in range(x.shape[1]):
            for layer in range(self.depth):
                h, logit = run(f"transform{layer}", s), run(f"gate{layer}", s)
                if layer == 0:
                    h, logit = h + given[:, time], logit + given_gate[:, time]
                t = tag(torch.sigmoid(logit), "gate", kind="gate")
                branch = tag(torch.tanh(h) * t, "branch", kind="branch")
                s = tag(branch + s * (1 - t), "stream")
            states.append(s)
        return torch.stack(states, 1)
