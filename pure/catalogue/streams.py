"""Multi-stream blocks: hyper-connections, DenseFormer, LAuReL, attention residuals."""

from __future__ import annotations

from typing import Final

from pure.catalogue.cases import Case
from pure.catalogue.parts import IMAGE, ROWS, TOKENS, conv, mlp
from pure.compose import Sequential
from pure.layers import Linear, RMSNorm
from pure.skips import Residual
from pure.skips.streams.dense_former import DenseFormer, EarlierOutputs
from pure.skips.streams.depth_attention import DepthAttention, DepthRead
from pure.skips.streams.hyper_connections import HyperConnection, hyper_connected
from pure.skips.streams.laurel import laurel
from pure.skips.streams.manifold_hyper_connections import ManifoldConnection

__all__ = ["CASES"]

STREAMS: Final = (3, 4, 5, 8)
"""(batch, streams, tokens, features)."""
HYPER: Final = "2409.19606"
ZERO: Final = "α one-hot at layer mod n, A_r = I, β = 1, dynamic weights 0 and their scales 0.01"
LAUREL: Final = "2411.07501, section 2"

CASES: Final[tuple[Case, ...]] = (
    Case(
        "dense_former",
        "dense",
        lambda: DenseFormer((Residual(mlp()), Residual(mlp()), Residual(mlp()))),
        ROWS,
        "xᵢ = Bᵢ(yᵢ₋₁), yᵢ = Σⱼ≤ᵢ αᵢⱼ xⱼ",
        "2402.02622, section 3",
        "αᵢᵢ = 1, others 0",
    ),
    Case(
        "dense_former_period",
        "dense",
        lambda: DenseFormer(tuple(Residual(conv(4, 4)) for _ in range(4)), period=2, dilation=2),
        IMAGE,
        "a mix behind every second block, over every second x",
        "2402.02622, section 3, dilation and period",
        "αᵢᵢ = 1, others 0",
    ),
    Case(
        "earlier_outputs",
        "dense",
        lambda: EarlierOutputs((mlp(), mlp(), mlp())),
        ROWS,
        "xᵢ₊₁ = fᵢ(xᵢ) + Σⱼ≤ᵢ γᵢⱼ xⱼ",
        f"{LAUREL}, LAuReL-PA with h the identity",
        "γᵢᵢ = 1, others 0",
    ),
    Case(
        "laurel_weights",
        "scaled",
        lambda: laurel(mlp()),
        ROWS,
        "α f(x) + β x",
        f"{LAUREL}, LAuReL-RW",
        "α = β = 1",
    ),
    Case(
        "laurel_low_rank",
        "scaled",
        lambda: laurel(mlp(), features=6, rank=2, weighted=False),
        ROWS,
        "f(x) + x + B A x",
        f"{LAUREL}, LAuReL-LR",
        "B = 0",
    ),
    Case(
        "laurel_weights_low_rank",
        "scaled",
        lambda: laurel(mlp(), features=6, rank=2),
        ROWS,
        "α f(x) + β (x + B A x)",
        f"{LAUREL}, LAuReL-RW+LR",
        "α = β = 1, B = 0",
    ),
    Case(
        "laurel_gemma3n",
        "scaled",
        lambda: Residual(
            Sequential(
                linear_left=Linear(8, 2, bias=False),
                linear_right=Linear(2, 8, bias=False),
                post_laurel_norm=RMSNorm(8),
            )
        ),
        TOKENS,
        "x + RMS(B A x) ⊙ g",
        f"{LAUREL}; Gemma 3n",
        oracle="transformers.models.gemma3n.modeling_gemma3n.Gemma3nTextLaurelBlock",
    ),
    Case(
        "hyper_static",
        "streams",
        lambda: HyperConnection(mlp(), 4, layer=1),
        (5, 4, 6),
        "X ← A_rᵀ X + β ⊗ f(αᵀ X)",
        f"{HYPER}, equations 1 to 5",
        ZERO,
    ),
    Case(
        "hyper_static_images",
        "streams",
        lambda: hyper_connected(conv(4, 4), conv(4, 4), streams=2),
        IMAGE,
        "X ← A_rᵀ X + β ⊗ f(αᵀ X)",
        f"{HYPER}, equations 1 to 5",
        ZERO,
    ),
    Case(
        "hyper_dynamic",
        "streams",
        lambda: HyperConnection(mlp(8, 8), 4, layer=2, features=8, norm=RMSNorm(8, 1e-24, affine=False)),
        STREAMS,
        "α = α₀ + s_α tanh(RMS(X) W), the same for A_r and β",
        f"{HYPER}, equations 10 to 13, with RMS for LayerNorm",
        ZERO,
        oracle="hyper_connections.HyperConnections",
    ),
    Case(
        "hyper_network",
        "streams",
        lambda: hyper_connected(mlp(8, 8), mlp(8, 8), streams=3, features=8),
        TOKENS,
        "α = α₀ + s_α tanh(LN(X) W), the same for A_r and β",
        f"{HYPER}, equations 10 to 13",
        ZERO,
    ),
    Case(
        "manifold_hyper",
        "streams",
        lambda: ManifoldConnection(mlp(8, 8), 4, 8),
        STREAMS,
        "H_res X + h_post ⊗ f(h_preᵀ X), H_res doubly stochastic",
        "2512.24880, section 4, as in DeepSeek-V4",
        "scales 0.01, biases 0",
        oracle="transformers.models.deepseek_v4.modeling_deepseek_v4.DeepseekV4HyperConnection",
    ),
    Case(
        "attention_residual_read",
        "streams",
        lambda: DepthRead(8, scale=8**-0.5, normalised=True),
        STREAMS,
        "Σᵢ αᵢ RMS(vᵢ), α = softmaxᵢ(q · RMS(vᵢ) / √d)",
        "Inkling 2's form of 2603.15031",
        "q = 0, the mean",
        oracle="transformers.models.inkling2.modeling_inkling2.Inkling2BlockAttentionResidual",
    ),
    Case(
        "attention_residual",
        "streams",
        lambda: DepthAttention((mlp(8, 8), mlp(8, 8), mlp(8, 8)), DepthRead(8)),
        TOKENS,
        "hₗ = Σᵢ<ₗ αᵢ vᵢ, α = softmaxᵢ(qₗ · RMS(vᵢ)), vₗ = fₗ(hₗ)",
        "2603.15031, full attention residuals",
        "q = 0, the mean",
    ),
    Case(
        "attention_residual_blocks",
        "streams",
        lambda: DepthAttention((mlp(8, 8), mlp(8, 8), mlp(8, 8)), DepthRead(8), size=2),
        TOKENS,
        "the same over sums of two branches each",
        "2603.15031, block attention residuals",
        "q = 0, the mean",
    ),
)
