"""Thinking for as long as it takes: one step repeated until a halting unit has had enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import Block, Extras, Params, specification
from pure.compose.chain import Sequential
from pure.composite import Run
from pure.errors import ArgumentError, ShapeError
from pure.initializers import Constant
from pure.layers.alignment import align, widen
from pure.layers.linear import Linear
from pure.layers.pool import GlobalAvgPool
from pure.leaf import describe
from pure.skips.dynamic.branching import Branching
from pure.tags import tag, watching

__all__ = ["ACT", "PonderNet", "halting_unit"]


def halting_unit(features: int, *, bias: float = 1.0, pool: bool = False) -> Block:
    """Return ACT's halting unit: one logit of the state, with a positive initial bias.

    Args:
        features: of the state.
        bias: initial bias; positive, so that few steps run at first; 1 in the paper.
        pool: whether to average (batch, features, *space) over space first.

    Source: Graves 2016 (1603.08983), section 2.

    Example:
        >>> halting_unit(4).out_shape((2, 4))
        (2, 1)
    """
    unit = Linear(features, 1, bias_init=Constant(bias))
    return Sequential(pool=GlobalAvgPool(), linear=unit) if pool else unit


@dataclass(frozen=True, repr=False)
class Halting(Branching):
    """y = Σₙ pₙ sₙ with sₙ = step(sₙ₋₁), s₀ = x; a sample whose weights have summed to 1 − ε halts, with the rest.

    The base of `ACT` and `PonderNet`, which differ in how pₙ follows from the halting unit. The weight of the step
    on which a sample halts is what is missing to 1, so that Σ pₙ = 1. At most `steps` steps are made. A sample that
    has halted keeps its state.

    Args:
        step: a block that keeps the input's shape and has no state; it is the same at every step, noise included.
        halt: a block that gives one logit a sample (batch, 1), or one a token (batch, tokens, 1).
        steps: the largest number of steps.
        epsilon: a sample halts when its weights sum to 1 − epsilon or more.
        mode: "select" or "branch", see `Branching`; the latter stops when all samples have halted.

    Raises:
        ArgumentError: fewer than one step, an epsilon outside [0, 1), or a step or halting unit with state.
        ShapeError: a step that changes the shape, or another number of logits than one.
    """

    step: Block
    halt: Block
    steps: int = 8
    epsilon: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or not 0 <= self.epsilon < 1:
            raise ArgumentError(
                f"{type(self).__name__} steps={self.steps}, epsilon={self.epsilon}: "
                "expected at least one step and an epsilon in [0, 1)"
            )
        for name, child in self.children().items():
            if specification(child)[1]:
                raise ArgumentError(
                    f"{type(self).__name__} {name} has state, and runs several times: use LayerNorm in place of "
                    "BatchNorm"
                )

    def share(self, h: Tensor, spent: Tensor) -> Tensor:
        """Return a step's weight from its halting probability and the weight already spent."""
        raise NotImplementedError(f"{type(self).__name__} defines no share")

    def cost(self, weights: Tensor, running: Tensor) -> Tensor:
        """Return each sample's ponder cost from (steps, batch, …) weights and running flags."""
        raise NotImplementedError(f"{type(self).__name__} defines no cost")

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return the weighted sum of the states."""

        def advance(s: Tensor) -> tuple[Tensor, Tensor]:
            after = run("step", s)
            if after.shape != s.shape:
                raise ShapeError(
                    f"{type(self).__name__}: step {tuple(after.shape)} for input {tuple(s.shape)}: it keeps the shape"
                )
            logit = run("halt", after)
            if logit.shape[-1] != 1 or logit.ndim > s.ndim:
                raise ShapeError(
                    f"{type(self).__name__}: halt {describe(logit)} for state {describe(after)}, expected one logit "
                    "a sample, (batch, 1), or one a token"
                )
            return after, torch.sigmoid(widen(logit)[..., 0])

        s, h = advance(x)
        spent, running = torch.zeros_like(h), torch.ones_like(h, dtype=torch.bool)
        ran, weights, states, y = [], [], [], torch.zeros_like(s)
        for index in range(self.steps):
            if index:

                def further(s: Tensor, h: Tensor, running: Tensor = running) -> tuple[Tensor, Tensor]:
                    after, chance = advance(s)
                    return torch.where(align(running, s), after, s), chance

                s, h = self.when(running, further, lambda s, h: (s, h), (s, h))
            share = self.share(h, spent)
            halts = spent + share >= 1 - self.epsilon
            if index == self.steps - 1:
                halts = torch.ones_like(halts)
            weight = torch.where(running, torch.where(halts, 1 - spent, share), 0)
            y = y + align(weight.to(s.dtype), s) * s
            ran.append(running)
            weights.append(weight)
            states.append(s)
            spent, running = spent + weight, running & ~halts
        if watching():
            tag(torch.stack(weights, 1), "weights", kind="gate")
            tag(torch.stack(states, 1), "states")
            tag(self.cost(torch.stack(weights), torch.stack(ran)), "ponder", kind="loss")
        return tag(y, "stream")


@dataclass(frozen=True, repr=False)
class ACT(Halting):
    """Adaptive computation time: y = Σₙ pₙ sₙ, pₙ = hₙ, and on the step N where Σ hₙ ≥ 1 − ε, p_N = R = 1 − Σ_{n<N} hₙ.

    hₙ = σ(halt(sₙ)). With one logit a token, it is the Universal Transformer's: tokens halt on their own.

    Tags: "weights" (pₙ, (batch, steps, …)) as gate, "states" (sₙ, steps on axis 1), "ponder" (N + R, one value a
    sample or token) as loss, "stream" (y). N counts as a constant, so the cost's gradient is that of R.

    Args:
        step: a block that keeps the input's shape and has no state; it is the same at every step, noise included.
        halt: a block that gives one logit a sample (batch, 1), or one a token (batch, tokens, 1); see `halting_unit`.
        steps: the largest number of steps.
        epsilon: a sample halts when its weights sum to 1 − epsilon or more.
        mode: "select" or "branch", see `Branching`; the latter stops when all samples have halted.

    Source: Graves 2016 (1603.08983), section 2, for one time step whose input is the initial state; one logit
    a token, Dehghani et al. 2018 (1807.03819), section 2.2.

    Example:
        >>> from pure.layers import Linear
        >>> block = ACT(Linear(4, 4), halting_unit(4), steps=3)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 4)).shape
        torch.Size([2, 4])
    """

    def share(self, h: Tensor, spent: Tensor) -> Tensor:
        """Return h."""
        return h

    def cost(self, weights: Tensor, running: Tensor) -> Tensor:
        """Return N + R."""
        last = torch.cat([running[:-1] & ~running[1:], running[-1:]])
        return running.to(weights.dtype).sum(0) + torch.where(last, weights, 0).sum(0)


@dataclass(frozen=True, repr=False)
class PonderNet(Halting):
    """y = Σₙ pₙ sₙ with pₙ = λₙ Π_{j<n} (1 − λⱼ) the probability of halting on step n; the last step takes the rest.

    λₙ = σ(halt(sₙ)). The output is the expected state. The paper's loss, Σₙ pₙ L(sₙ) + β KL, follows from the tags.

    Tags: "weights" (pₙ, (batch, steps, …)) as gate, "states" (sₙ, steps on axis 1), "ponder" as loss, one value a
    sample or token: KL(p ‖ geometric(prior)), the prior's tail on its last step as p's is, so that λₙ = prior costs
    nothing; "stream" (y).

    Args:
        step: a block that keeps the input's shape and has no state; it is the same at every step, noise included.
        halt: a block that gives one logit a sample (batch, 1), or one a token (batch, tokens, 1).
        steps: the largest number of steps.
        epsilon: a sample halts when its probabilities sum to 1 − epsilon or more; 0 makes all steps.
        prior: λ_p, the reciprocal of the number of steps to expect.
        mode: "select" or "branch", see `Branching`; the latter stops when all samples have halted.

    Raises:
        ArgumentError: a prior outside (0, 1).

    Source: Banino et al. 2021 (2107.05407), section 2.

    Example:
        >>> from pure.layers import Linear
        >>> block = PonderNet(Linear(4, 4), Linear(4, 1), steps=3)
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 4)).shape
        torch.Size([2, 4])
    """

    epsilon: float = 0.0
    prior: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.prior < 1:
            raise ArgumentError(f"PonderNet prior={self.prior!r}: expected a probability in (0, 1)")

    def share(self, h: Tensor, spent: Tensor) -> Tensor:
        """Return h · (1 − spent)."""
        return h * (1 - spent)

    def cost(self, weights: Tensor, running: Tensor) -> Tensor:
        """Return Σ pₙ (log pₙ − log gₙ)."""
        logs = [n * math.log1p(-self.prior) + math.log(self.prior) for n in range(self.steps - 1)]
        logs.append((self.steps - 1) * math.log1p(-self.prior))
        used = weights > 0
        terms = [
            torch.where(used[n], p * (torch.where(used[n], p, 1).log() - log), 0)
            for n, (p, log) in enumerate(zip(weights, logs, strict=True))
        ]
        return torch.stack(terms).sum(0)
