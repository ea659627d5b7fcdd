"""Residual blocks as steps of Euler's method: x(t + h) = x(t) + h · f(x(t), t)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pure.block import Block, Extras, Params
from pure.composite import Composite, Run
from pure.errors import ArgumentError, RankError, ShapeError
from pure.leaf import describe
from pure.tags import tag

__all__ = ["Euler"]


@dataclass(frozen=True, repr=False)
class Euler(Composite):
    """x ← x + h · f(x, t), t ← t + h, `steps` times with the same parameters.

    The time is one more channel, constant over positions, behind the others: f maps `features + 1` to `features`.
    A step with parameters of its own at each time is `Repeat(Euler(f, h), n, vary={"start": times})`.

    Tags: "branch" (h · f of each step), "stream" (each new x).

    Args:
        branch: f.
        step: h.
        start: t at first.
        steps: how many.
        timed: whether f gets the time; without it f keeps the input's shape.
        axis: the axis that the time is appended to: −1 for features, 1 for channels of images.

    Raises:
        ArgumentError: fewer than one step.
        RankError: an input that has only a batch axis.
        ShapeError: f(x, t) differs from x in shape.

    Source: Chen et al. 2018 (1806.07366), equations 1 and 2; E 2017, "A proposal on machine learning via dynamical
    systems".

    Example:
        >>> from pure import Linear
        >>> block = Euler(Linear(3, 2), step=0.1, steps=10)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(4, 2)).shape
        torch.Size([4, 2])
    """

    branch: Block
    step: float
    start: float = 0.0
    steps: int = 1
    timed: bool = True
    axis: int = -1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ArgumentError(f"Euler steps={self.steps}: expected at least 1")
        super().__post_init__()

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return x behind the last step."""
        if x.ndim < 2:
            raise RankError(f"{self}: input {describe(x)}, expected (batch, …): add x.unsqueeze(0)")
        for index in range(self.steps):
            given = x
            if self.timed:
                time = torch.full_like(x.narrow(self.axis, 0, 1), self.start + index * self.step)
                given = torch.cat([x, time], self.axis)
            f = run("branch", given)
            if f.shape != x.shape:
                raise ShapeError(
                    f"{self}: f gives {tuple(f.shape)} for a stream of {tuple(x.shape)}: expected one shape"
                )
            x = tag(x + tag(self.step * f, "branch", kind="branch"), "stream")
        return x
