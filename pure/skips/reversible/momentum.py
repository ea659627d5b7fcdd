"""Momentum residual networks: branches push a velocity, the velocity moves the stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pure.block import EMPTY, Extras, Params, State
from pure.composite import Run
from pure.errors import ArgumentError, ShapeError
from pure.skips.reversible.coupling import Invertible
from pure.skips.streams.stream_axis import Stack
from pure.tags import tag

__all__ = ["Momentum"]


@dataclass(frozen=True, repr=False)
class Momentum(Stack, Invertible):
    """v ← γ v + (1 − γ) fᵢ(x), x ← x + v, for every branch in turn, from v = 0.

    γ = 0 is the residual network. A call returns x; `pair` returns (x, v), from which `inverse` computes the input
    back: x ← x − v, v ← (v − (1 − γ) fᵢ(x)) / γ, in reverse order. Each division by γ magnifies rounding.

    Tags, of each step i: "branch[i]" ((1 − γ) fᵢ(x), what is pushed), "stream[i]" (x).

    Args:
        blocks: the branches fᵢ; they keep the input's shape.
        gamma: γ, at least 0 and below 1; the inverse needs it above 0.

    Raises:
        ArgumentError: γ outside its range.
        ShapeError: a branch that changes the shape.

    Source: Sander et al. 2021 (2102.07870), equations 2 and 3.

    Example:
        >>> from pure import Linear
        >>> net = Momentum((Linear(2, 2), Linear(2, 2)), gamma=0.9)
        >>> params, _ = net.init(torch.Generator().manual_seed(0))
        >>> x = torch.ones(1, 2)
        >>> back, velocity = net.inverse(params, net.pair(params, x))
        >>> (back - x).abs().max() < 1e-5, velocity.abs().max() < 1e-5
        (tensor(True), tensor(True))
    """

    gamma: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < 1:
            raise ArgumentError(f"Momentum gamma={self.gamma}: expected at least 0 and below 1")
        super().__post_init__()

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the last x."""
        return self._walk(run, x, torch.zeros_like(x))[0]

    def pair(self, params: Params, x: Any, state: State = EMPTY, extras: Extras = EMPTY) -> tuple[Any, Any]:
        """Return the last (x, v), in evaluation."""
        return self._walk(self._evaluating(params, state, extras), x, torch.zeros_like(x))

    def inverse(self, params: Params, y: Any, state: State = EMPTY, extras: Extras = EMPTY) -> Any:
        """Return the first (x, v) for the last one, `y`."""
        if not self.gamma:
            raise ArgumentError("Momentum gamma=0 is a residual network, which has no such inverse: take gamma above 0")
        run = self._evaluating(params, state, extras)
        x, v = y
        for index in reversed(range(len(self.blocks))):
            x = x - v
            v = (v - (1 - self.gamma) * run(str(index), x)) / self.gamma
        return x, v

    def _walk(self, run: Run, x: Any, v: Any) -> tuple[Any, Any]:
        for index in range(len(self.blocks)):
            f = run(str(index), x)
            if f.shape != x.shape:
                raise ShapeError(
                    f"Momentum: block '{index}' gives {tuple(f.shape)} from {tuple(x.shape)}: expected one shape"
                )
            v = self.gamma * v + tag((1 - self.gamma) * f, f"branch[{index}]", kind="branch")
            x = tag(x + v, f"stream[{index}]")
        return x, v
