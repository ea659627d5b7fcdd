"""Reversible blocks and residual networks as discretised flows."""

from __future__ import annotations

from typing import Final

from pure.catalogue.cases import Case
from pure.catalogue.parts import IMAGE, ROWS, TOKENS, conv, mlp
from pure.compose import Repeat, Sequential
from pure.initializers import Uniform
from pure.layers import Activation, Linear, Scale
from pure.skips.reversible.coupling import Reversible
from pure.skips.reversible.equilibrium import Equilibrium
from pure.skips.reversible.euler import Euler
from pure.skips.reversible.momentum import Momentum
from pure.skips.reversible.reversal import ReversibleStack

__all__ = ["CASES"]

CASES: Final[tuple[Case, ...]] = (
    Case(
        "reversible",
        "reversible",
        lambda: Reversible(mlp(3, 5), mlp(3, 4)),
        ROWS,
        "y₁ = x₁ + f(x₂), y₂ = x₂ + g(y₁)",
        "1707.04585, figure 2",
        oracle="pytorchcv.models.revnet.ReversibleBlock",
    ),
    Case(
        "reversible_conv",
        "reversible",
        lambda: Sequential(Reversible(conv(2, 2), conv(2, 2)), Reversible(conv(2, 2), conv(2, 2))),
        IMAGE,
        "y₁ = x₁ + f(x₂), y₂ = x₂ + g(y₁)",
        "1707.04585, figure 2",
    ),
    Case(
        "reversible_tokens",
        "reversible",
        lambda: Reversible(mlp(4, 5), mlp(4, 5), axis=-1),
        TOKENS,
        "y₁ = x₁ + f(x₂), y₂ = x₂ + g(y₁) over halves of the features",
        "2001.04451, section 3 (Reformer)",
    ),
    Case(
        "reversible_stack",
        "reversible",
        lambda: ReversibleStack((Reversible(mlp(3, 5), mlp(3, 4)), Reversible(mlp(3, 5), mlp(3, 4)))),
        ROWS,
        "y₁ = x₁ + f(x₂), y₂ = x₂ + g(y₁), differentiated from the output back",
        "1707.04585, algorithm 1",
    ),
    Case(
        "momentum",
        "reversible",
        lambda: Momentum((mlp(), mlp(), mlp()), gamma=0.8),
        ROWS,
        "v ← γ v + (1 − γ) f(x), x ← x + v, v₀ = 0",
        "2102.07870, equation 2",
    ),
    Case(
        "euler",
        "reversible",
        lambda: Euler(Sequential(fc1=Linear(7, 8), act=Activation("tanh"), fc2=Linear(8, 6)), 0.25, start=0.5, steps=3),
        ROWS,
        "x ← x + h f(x, t), t ← t + h, one f",
        "1806.07366, equations 1 and 2",
    ),
    Case(
        "euler_layers",
        "reversible",
        lambda: Repeat(Euler(Linear(7, 6), 0.5), 3, vary={"start": (0.0, 0.5, 1.0)}),
        ROWS,
        "x ← x + h fₜ(x, t), a field of its own at each time",
        "1806.07366, equation 1",
    ),
    Case(
        "euler_images",
        "reversible",
        lambda: Euler(conv(5, 4), 0.5, axis=1),
        IMAGE,
        "x + h f(x, t), t a channel",
        "1806.07366, equation 2",
    ),
    Case(
        "equilibrium",
        "reversible",
        lambda: Equilibrium(
            Sequential(fc=Linear(8, 4, weight_init=Uniform(-0.1, 0.1)), act=Activation("tanh"), out=Scale(4, 0.2)), 40
        ),
        (5, 4),
        "z = f(z, x), derivatives implicit",
        "1909.01377, theorem 1",
    ),
)
