"""Gates: highway layers, GRU-like skips, GLUs, and gates over tokens, channels, positions."""

from __future__ import annotations

from typing import Final

from pure.catalogue.cases import Case
from pure.catalogue.parts import IMAGE, ROWS, TOKENS, conv, mlp
from pure.compose import Sequential
from pure.initializers import Constant
from pure.layers import Activation, Conv2d, Linear
from pure.layers.squeeze import SqueezeExcite
from pure.skips.additive.residual import Residual
from pure.skips.gated.channel_gates import ECA, SelectiveKernel, cbam
from pure.skips.gated.glu import GLU
from pure.skips.gated.grn import GatedResidualNetwork
from pure.skips.gated.gru_gate import GatedSkip, GRUCellSkip
from pure.skips.gated.highway import Highway
from pure.skips.gated.recurrent_highway import RecurrentHighway
from pure.skips.gated.scalar_gate import ScalarGate
from pure.skips.gated.spatial_gating import SpatialGating, gmlp_block

__all__ = ["CASES"]

GTRXL: Final = "1910.06764, gating layers"
SHAZEER: Final = "2002.05202, equation 6"

CASES: Final[tuple[Case, ...]] = (
    Case(
        "highway_conv",
        "gated",
        lambda: Highway(
            Sequential(conv=Conv2d(4, 4, 3, padding=1), act=Activation("relu")),
            Conv2d(4, 4, 3, padding=1, bias_init=Constant(-2.0)),
        ),
        IMAGE,
        "T ⊙ H(x) + (1 − T) ⊙ x",
        "1505.00387, equation 3",
        init="gate bias −2",
    ),
    Case(
        "recurrent_highway",
        "gated",
        lambda: RecurrentHighway(8, 6, depth=2),
        TOKENS,
        "sₗ = hₗ ⊙ tₗ + sₗ₋₁ ⊙ (1 − tₗ) in every step",
        "1607.03474, equations 6 to 9",
        init="gate bias −2",
    ),
    Case(
        "gated_residual_network",
        "gated",
        lambda: GatedResidualNetwork(8, 6, context_features=4),
        TOKENS,
        "LN(a + GLU(W₁ ELU(W₂ a + W₃ c)))",
        "1912.09363, equations 2 to 5",
        extras=(("context", (TOKENS[0], 4)),),
    ),
    Case(
        "gated_residual_network_project",
        "gated",
        lambda: GatedResidualNetwork(6, 5, out_features=4, dropout=0.25),
        ROWS,
        "LN(S a + GLU(W₁ ELU(W₂ a)))",
        "1912.09363, equations 2 to 5",
    ),
    Case(
        "gru_gate",
        "gated",
        lambda: GatedSkip(mlp(8, 6), 8),
        TOKENS,
        "(1 − z) ⊙ x + z ⊙ tanh(W_g y + U_g (r ⊙ x)), z = σ(W_z y + U_z x − b)",
        GTRXL,
        init="b = 2",
    ),
    Case("input_gate", "gated", lambda: GatedSkip(mlp(), 6, "input"), ROWS, "σ(W x) ⊙ x + y", GTRXL),
    Case(
        "output_gate", "gated", lambda: GatedSkip(mlp(), 6, "output"), ROWS, "x + σ(W x − b) ⊙ y", GTRXL, init="b = 2"
    ),
    Case(
        "highway_gate",
        "gated",
        lambda: GatedSkip(mlp(), 6, "highway"),
        ROWS,
        "σ(W x + b) ⊙ x + (1 − σ(W x + b)) ⊙ y",
        GTRXL,
        init="b = 2",
    ),
    Case(
        "sigmoid_tanh_gate",
        "gated",
        lambda: GatedSkip(mlp(), 6, "sigtanh"),
        ROWS,
        "x + σ(W y − b) ⊙ tanh(U y)",
        GTRXL,
        init="b = 2",
    ),
    Case(
        "gru_cell",
        "gated",
        lambda: GRUCellSkip(mlp(), 6),
        ROWS,
        "GRUCell(f(x), x)",
        "1406.1078",
        oracle="torch.nn.GRUCell",
    ),
    Case(
        "gru_gating",
        "gated",
        lambda: GRUCellSkip(mlp(8, 6), 8),
        TOKENS,
        "GRUCell(f(x), x)",
        "1406.1078",
        oracle="x_transformers.x_transformers.GRUGating",
    ),
    Case(
        "scalar_gate",
        "gated",
        lambda: ScalarGate(mlp()),
        ROWS,
        "x + relu(k) f(x)",
        "1611.01260, section 3",
        init="k = 1",
    ),
    Case(
        "tanh_gate",
        "gated",
        lambda: ScalarGate(mlp(), "tanh", 0.0),
        ROWS,
        "x + tanh(k) f(x)",
        "2204.14198, section 2.2",
        init="k = 0: the identity",
    ),
    Case(
        "glu",
        "gated",
        lambda: GLU(8, 6, "sigmoid", fused="up_gate"),
        TOKENS,
        "W₂ (σ(W x) ⊙ V x)",
        "1612.08083, equation 1",
        oracle="timm.layers.GluMlp",
    ),
    Case(
        "geglu",
        "gated",
        lambda: GLU(8, 6, "gelu", fused="up_gate"),
        TOKENS,
        "W₂ (gelu(W x) ⊙ V x)",
        SHAZEER,
        oracle="timm.layers.GluMlp",
    ),
    Case(
        "swiglu",
        "gated",
        lambda: GLU(8, 6),
        TOKENS,
        "W₂ (silu(W x) ⊙ V x)",
        SHAZEER,
        oracle="timm.layers.SwiGLU",
    ),
    Case(
        "swiglu_packed",
        "gated",
        lambda: GLU(8, 6, fused="gate_up", out_features=4, dropout=0.25),
        TOKENS,
        "W₂ (silu(W x) ⊙ V x)",
        SHAZEER,
        oracle="timm.layers.GluMlp",
    ),
    Case(
        "llama_mlp",
        "gated",
        lambda: GLU(8, 6, bias=False),
        TOKENS,
        "W₂ (silu(W x) ⊙ V x)",
        SHAZEER,
        oracle="transformers.models.llama.modeling_llama.LlamaMLP",
    ),
    Case(
        "spatial_gating",
        "gated",
        lambda: SpatialGating(8, 5),
        TOKENS,
        "u ⊙ (W LN(v) + b), W and b over tokens",
        "2105.08050, section 2.1",
        init="W ≈ 0, b = 1: y ≈ u",
        oracle="timm.models.mlp_mixer.SpatialGatingUnit",
    ),
    Case(
        "gmlp_block",
        "gated",
        lambda: gmlp_block(8, 12, 5),
        TOKENS,
        "x + W₂ (u ⊙ (W LN(v) + b)), [u, v] = gelu(W₁ LN(x))",
        "2105.08050, figure 1",
        init="W ≈ 0, b = 1",
        oracle="timm.models.mlp_mixer.SpatialGatingBlock",
    ),
    Case(
        "squeeze_excite_residual",
        "gated",
        lambda: Residual(Sequential(f=conv(4, 4), se=SqueezeExcite(4, 2)), activation="relu"),
        IMAGE,
        "relu(x + s(f) ⊙ f), f = f(x)",
        "1709.01507, figure 3",
        oracle="timm.layers.SqueezeExcite",
    ),
    Case(
        "eca",
        "gated",
        lambda: ECA(3),
        IMAGE,
        "x ⊙ σ(w ∗ mean(x)), along the channels",
        "1910.03151, section 3.2",
        oracle="timm.layers.EcaModule",
    ),
    Case(
        "cbam",
        "gated",
        lambda: cbam(4, 2),
        IMAGE,
        "u = x ⊙ σ(M(mean x) + M(max x)), y = u ⊙ σ(BN(w ∗ [mean u, max u]))",
        "1807.06521, equations 1 to 3",
        oracle="timm.layers.cbam.CbamModule",
    ),
    Case(
        "selective_kernel",
        "gated",
        lambda: SelectiveKernel(4, 6, 3),
        IMAGE,
        "Σᵢ aᵢ ⊙ relu(BN(Kᵢ x)), a a softmax",
        "1903.06586, equations 1 to 6",
        oracle="timm.layers.SelectiveKernel",
    ),
    Case(
        "selective_kernel_split",
        "gated",
        lambda: Residual(SelectiveKernel(4, 4, 2, split=True), activation="relu"),
        IMAGE,
        "relu(x + Σᵢ aᵢ ⊙ relu(BN(Kᵢ xᵢ)))",
        "1903.06586; the split is timm's",
        oracle="timm.layers.SelectiveKernel",
    ),
    Case(
        "glu_residual",
        "gated",
        lambda: Residual(GLU(6, 8, "sigmoid", norm=Linear(8, 8))),
        ROWS,
        "x + W₂ N(σ(W x) ⊙ V x)",
        "1612.08083, equation 1",
    ),
)
