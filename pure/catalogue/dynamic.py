"""Dynamic depth and width: gates, halting, exits, routed tokens, experts, slices."""

from __future__ import annotations

from typing import Final

from pure.block import Block
from pure.catalogue.cases import Case
from pure.catalogue.parts import HE, IMAGE, ROWS, TOKENS, conv, mlp
from pure.compose import Sequential
from pure.initializers import Normal
from pure.layers import Activation, GlobalAvgPool, LayerNorm, Linear
from pure.skips.additive.residual import Residual
from pure.skips.additive.shortcut import Project
from pure.skips.dynamic.early_exits import EarlyExit
from pure.skips.dynamic.external_control import Dynamic
from pure.skips.dynamic.halting import ACT, PonderNet, halting_unit
from pure.skips.dynamic.mixture_of_depths import MixtureOfDepths
from pure.skips.dynamic.mixture_of_experts import MixtureOfExperts
from pure.skips.dynamic.routing import AdaptiveResidual, SkipLayer, gate_head
from pure.skips.dynamic.slimmable import SlimConv2d, SlimLinear, Slimmable, SwitchableBatchNorm

__all__ = ["CASES"]

DECIDED: Final = Normal(std=2.0)
"""Weights that make a gate's decision depend on the input, and not on rounding."""


def slim(channels: int, widths: tuple[int, ...], active: int) -> Block:
    """Return a basic residual block that uses the first `widths[active]` hidden channels."""
    width = widths[active]
    return Residual(
        Sequential(
            conv1=SlimConv2d(channels, max(widths), 3, padding=1, bias=False, active_out=width),
            norm1=SwitchableBatchNorm(widths, active),
            act=Activation("relu"),
            conv2=SlimConv2d(max(widths), channels, 3, padding=1, active_in=width),
        )
    )


CASES: Final[tuple[Case, ...]] = (
    Case(
        "dynamic_per_sample",
        "dynamic",
        lambda: Dynamic(mlp()),
        ROWS,
        "f(xᵢ) if cᵢ > ½ else xᵢ",
        "torch.where",
        extras=(("control", ROWS[:1]),),
    ),
    Case(
        "convnet_aig",
        "dynamic",
        lambda: AdaptiveResidual(conv(4, 4), gate_head(4, 8, open_rate=0.3, weight_init=DECIDED), activation="relu"),
        IMAGE,
        "relu(x + g(x) f(x)), g = 1[a₁ > a₀]; in training straight-through Gumbel",
        "1711.11503, section 3",
        init="gate bias: 85 % open by default, here 30 %; its last weights N(0, 0.001²) by default",
    ),
    Case(
        "convnet_aig_project",
        "dynamic",
        lambda: AdaptiveResidual(
            conv(4, 6, stride=2), gate_head(4, 8, norm=True), Project(4, 6, stride=2, norm=True), activation="relu"
        ),
        IMAGE,
        "relu(S(x) + g(x) f(x))",
        "1711.11503, section 3; the authors' gate, with BatchNorm",
        init="gate bias: 85 % open",
    ),
    Case(
        "skipnet",
        "dynamic",
        lambda: SkipLayer(
            Residual(conv(4, 4), activation="relu"),
            gate_head(4, 8, open_rate=0.3, gumbel=False, weight_init=DECIDED),
        ),
        IMAGE,
        "g(x) F(x) + (1 − g(x)) x, F the layer with its skip",
        "1711.09485, equation 1",
    ),
    Case(
        "act",
        "dynamic",
        lambda: ACT(Residual(mlp()), halting_unit(6, bias=-1.0), steps=4),
        ROWS,
        "Σₙ hₙ sₙ + R s_N, N the first step where Σ hₙ ≥ 1 − ε",
        "1603.08983, section 2",
        init="halting bias 1 by default",
    ),
    Case(
        "act_per_token",
        "dynamic",
        lambda: ACT(Residual(mlp(8, 6)), halting_unit(8, bias=-0.5), steps=3),
        (3, 4, 8),
        "Σₙ hₙ sₙ + R s_N, a token",
        "1807.03819, section 2.2",
        init="halting bias 1 by default",
    ),
    Case(
        "ponder_net",
        "dynamic",
        lambda: PonderNet(Residual(mlp()), Linear(6, 1), steps=4),
        ROWS,
        "Σₙ pₙ sₙ, pₙ = λₙ Π_{j<n} (1 − λⱼ)",
        "2107.05407, section 2",
    ),
    Case(
        "early_exit",
        "dynamic",
        lambda: EarlyExit(
            (Residual(conv(4, 4)), Residual(conv(4, 4)), Residual(conv(4, 4))),
            tuple(Sequential(pool=GlobalAvgPool(), fc=Linear(4, 3, weight_init=Normal(std=0.5))) for _ in range(3)),
            threshold=0.83,
        ),
        IMAGE,
        "head_k(s_k), k the first with max softmax > t",
        "1703.09844",
    ),
    Case(
        "early_exit_shared_head",
        "dynamic",
        lambda: EarlyExit(
            (Residual(mlp(8, 6)), Residual(mlp(8, 6))),
            Sequential(norm=LayerNorm(8), fc=Linear(8, 5, weight_init=DECIDED)),
            threshold=0.8,
        ),
        TOKENS,
        "head(s_k), k the first with max softmax > t, a token",
        "2404.16710, section 4",
    ),
    Case(
        "mixture_of_depths",
        "dynamic",
        lambda: MixtureOfDepths(mlp(8, 6), Linear(8, 1, bias=False), 2),
        TOKENS,
        "xᵢ + rᵢ f(X)ᵢ if i ∈ top-k(r), else xᵢ",
        "2404.02258, equation 1",
    ),
    Case(
        "moe",
        "dynamic",
        lambda: Residual(MixtureOfExperts.swiglu(8, 6, experts=4, top_k=2)),
        TOKENS,
        "x + Σₑ∈top-k gₑ fₑ(x), g = softmax over the top k",
        "2401.04088, section 2.1",
        oracle="transformers.models.mixtral.modeling_mixtral.MixtralSparseMoeBlock",
    ),
    Case(
        "slim_linear",
        "dynamic",
        lambda: SlimLinear(9, 7, active_in=6, active_out=3),
        ROWS,
        "x W[:o, :i]ᵀ + b[:o]",
        "1812.08928, section 3",
    ),
    Case(
        "slimmable",
        "dynamic",
        lambda: Slimmable((slim(4, (3, 8), 0), slim(4, (3, 8), 1)), active=0),
        IMAGE,
        "x + W₂[:, :w] relu(BN_w(W₁[:w] x)), every width in training",
        f"1812.08928, algorithm 1; {HE}",
    ),
)
