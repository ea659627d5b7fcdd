"""Gates against timm, transformers, x-transformers and PyTorch, and plain modules written from the formulas."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import EcaModule, GluMlp, SelectiveKernel, SqueezeExcite, SwiGLU
from timm.layers.cbam import CbamModule
from timm.models.mlp_mixer import SpatialGatingBlock, SpatialGatingUnit
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP
from x_transformers.x_transformers import GRUGating

from parity_tests.oracles.basic import Plain, mlp
from parity_tests.oracles.masks import Masked
from parity_tests.oracles.oracle import Oracle
from parity_tests.oracles.scaled import conv_branch, convs, norms, tanh_mlp, with_parts


class HighwayConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        t = 1 / (1 + torch.exp(-self.gate(x)))
        return torch.relu(self.conv(x)) * t + x * (1 - t)


class RecurrentHighway(nn.Module):
    """Equations 6 to 9 of the paper, one matrix a symbol, s of the last step going in as s₀."""

    def __init__(self, inputs: int, size: int, depth: int) -> None:
        super().__init__()
        self.W_H, self.W_T = (nn.Parameter(torch.randn(size, inputs)) for _ in range(2))
        self.R_H, self.R_T = (nn.ParameterList([torch.randn(size, size) for _ in range(depth)]) for _ in range(2))
        self.b_H, self.b_T = (nn.ParameterList([torch.randn(size) for _ in range(depth)]) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for sample in x:
            s = torch.zeros_like(self.b_H[0])
            for step in sample:
                for layer in range(len(self.b_H)):
                    first = 1 if layer == 0 else 0
                    h = torch.tanh(self.W_H @ step * first + self.R_H[layer] @ s + self.b_H[layer])
                    t = torch.sigmoid(self.W_T @ step * first + self.R_T[layer] @ s + self.b_T[layer])
                    s = h * t + s * (1 - t)
                outputs.append(s)
        return torch.stack(outputs).reshape(*x.shape[:2], -1)


def recurrent_names(depth: int) -> dict[str, str]:
    found = {"input.weight": "W_H", "input_gate.weight": "W_T"}
    for name, symbol in (("transform", "H"), ("gate", "T")):
        for layer in range(depth):
            found |= {f"{name}{layer}.weight": f"R_{symbol}.{layer}", f"{name}{layer}.bias": f"b_{symbol}.{layer}"}
    return found


class GRN(nn.Module):
    """Equations 2 to 5 of the paper."""

    def __init__(self, features: int, hidden: int, out: int, context: int | None = None) -> None:
        super().__init__()
        self.w2, self.w1 = nn.Linear(features, hidden), nn.Linear(hidden, hidden)
        self.w4, self.w5 = nn.Linear(hidden, out), nn.Linear(hidden, out)
        self.ln = nn.LayerNorm(out)
        if context:
            self.w3 = nn.Linear(context, hidden, bias=False)
        if out != features:
            self.project = nn.Linear(features, out)
        self.keep: Any = 1.0

    def forward(self, a: Tensor, c: Tensor | None = None) -> Tensor:
        eta2 = self.w2(a)
        if c is not None:
            eta2 = eta2 + self.w3(c.unsqueeze(1).expand(-1, a.shape[1], -1))
        eta1 = self.w1(torch.where(eta2 > 0, eta2, torch.expm1(eta2))) * self.keep
        glu = torch.sigmoid(self.w4(eta1)) * self.w5(eta1)
        return self.ln((self.project(a) if hasattr(self, "project") else a) + glu)


GRN_NAMES = {"fc1": "w1", "fc2": "w2", "context": "w3", "gate": "w4", "value": "w5", "norm": "ln", "skip": "project"}


def dropped_grn(module: nn.Module, x: Any, extras: Any, noise: Any) -> Any:
    module.keep = noise["drop"]["mask"] / 0.75 if noise else 1.0
    return module(x)


class Gate(nn.Module):
    """g(x, y) with y = W₂ tanh(W₁ x), as the rows of the paper's list of gates; matrices by the paper's names."""

    def __init__(self, g: Any, size: int, hidden: int, matrices: str, bias: bool = True) -> None:
        super().__init__()
        self.g = g
        self.fc1, self.fc2 = nn.Linear(size, hidden), nn.Linear(hidden, size)
        for name in matrices.split():
            self.register_parameter(name, nn.Parameter(torch.randn(size, size)))
        if bias:
            self.bias = nn.Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.g(self, x, tanh_mlp(self, x))


def gru(m: Any, x: Tensor, y: Tensor) -> Tensor:
    r = torch.sigmoid(y @ m.w_r.T + x @ m.u_r.T)
    z = torch.sigmoid(y @ m.w_z.T + x @ m.u_z.T - m.bias)
    return (1 - z) * x + z * torch.tanh(y @ m.w_g.T + (r * x) @ m.u_g.T)


def input_gate(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return torch.sigmoid(x @ m.w_g.T) * x + y


def output_gate(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return x + torch.sigmoid(x @ m.w_g.T - m.bias) * y


def highway_gate(m: Any, x: Tensor, y: Tensor) -> Tensor:
    g = torch.sigmoid(x @ m.w_g.T + m.bias)
    return g * x + (1 - g) * y


def sigtanh(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return x + torch.sigmoid(y @ m.w_g.T - m.bias) * torch.tanh(y @ m.u_g.T)


GATE = {"branch": ""} | {f"{side}_{which}.weight": f"{side}_{which}" for side in "wu" for which in "rzg"}
CELL = {"branch": ""} | {f"{s}.{leaf}": f"{leaf}_{s}" for s in ("ih", "hh") for leaf in ("weight", "bias")}
CELL_IN_GATING = {name: f"gru.{leaf}" if leaf else "" for name, leaf in CELL.items()}


class ScalarGate(Plain):
    """x + g(k) · f(x)."""

    def __init__(self, g: Any) -> None:
        super().__init__(lambda m, x: x + g(m.gate) * tanh_mlp(m, x), **mlp())
        self.gate = nn.Parameter(torch.tensor(0.0))


def masked_glu(module: nn.Module, x: Any, extras: Any, noise: Any) -> Any:
    module.drop1 = Masked(0.25).train(noise is not None)
    module.drop1.mask = noise["drop"]["mask"] if noise else None
    return module(x)


def llama() -> nn.Module:
    return LlamaMLP(LlamaConfig(hidden_size=8, intermediate_size=6, num_attention_heads=2))


FUSED = {"up_gate": "fc1", "gate_up": "fc1", "down": "fc2"}
SELECT = {"reduce": "attn.fc_reduce", "norm": "attn.bn", "select": "attn.fc_select"}
SELECT |= {f"path{i}.conv": f"paths.{i}.conv" for i in (0, 1)} | {f"path{i}.norm": f"paths.{i}.bn" for i in (0, 1)}


def in_branch(names: dict[str, str]) -> dict[str, str]:
    return {f"branch.{ours}": theirs for ours, theirs in names.items()}


def residual_se(module: Any, x: Tensor, extras: Any, noise: Any) -> Tensor:
    return torch.relu(x + module(conv_branch(module, x)))


class Bilinear(nn.Module):
    """x + W₂ N(σ(W x) ⊙ V x)."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v, self.n, self.w2 = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.w2(self.n(F.glu(torch.cat([self.v(x), self.w(x)], -1), -1)))


ORACLES = {
    "highway_conv": Oracle(HighwayConv, {"transform.conv": "conv"}),
    "recurrent_highway": Oracle(lambda: RecurrentHighway(8, 6, 2), recurrent_names(2)),
    "gated_residual_network": Oracle(
        lambda: GRN(8, 6, 8, 4), GRN_NAMES, call=lambda m, x, extras, noise: m(x, extras["context"])
    ),
    "gated_residual_network_project": Oracle(lambda: GRN(6, 5, 4), GRN_NAMES, call=dropped_grn),
    "gru_gate": Oracle(lambda: Gate(gru, 8, 6, "w_r u_r w_z u_z w_g u_g"), GATE),
    "input_gate": Oracle(lambda: Gate(input_gate, 6, 8, "w_g", bias=False), GATE),
    "output_gate": Oracle(lambda: Gate(output_gate, 6, 8, "w_g"), GATE),
    "highway_gate": Oracle(lambda: Gate(highway_gate, 6, 8, "w_g"), GATE),
    "sigmoid_tanh_gate": Oracle(lambda: Gate(sigtanh, 6, 8, "w_g u_g"), GATE),
    "gru_cell": Oracle(
        lambda: with_parts(nn.GRUCell(6, 6), **mlp()), CELL, call=lambda m, x, extras, noise: m(tanh_mlp(m, x), x)
    ),
    "gru_gating": Oracle(
        lambda: with_parts(GRUGating(8), fc1=nn.Linear(8, 6), fc2=nn.Linear(6, 8)),
        CELL_IN_GATING,
        call=lambda m, x, extras, noise: m(tanh_mlp(m, x), x),
    ),
    "scalar_gate": Oracle(lambda: ScalarGate(torch.relu), {"branch": ""}),
    "tanh_gate": Oracle(lambda: ScalarGate(torch.tanh), {"branch": ""}),
    "glu": Oracle(lambda: GluMlp(8, 12), FUSED),
    "geglu": Oracle(lambda: GluMlp(8, 12, act_layer=nn.GELU), FUSED),
    "swiglu": Oracle(lambda: SwiGLU(8, 6), {"gate": "fc1_g", "up": "fc1_x", "down": "fc2"}),
    "swiglu_packed": Oracle(lambda: GluMlp(8, 12, 4, act_layer=nn.SiLU, gate_last=False), FUSED, call=masked_glu),
    "llama_mlp": Oracle(llama, {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}),
    "spatial_gating": Oracle(lambda: SpatialGatingUnit(8, 5)),
    "gmlp_block": Oracle(
        lambda: SpatialGatingBlock(8, 5, mlp_ratio=1.5), {"branch": "mlp_channels", "branch.norm": "norm"}
    ),
    "squeeze_excite_residual": Oracle(
        lambda: with_parts(SqueezeExcite(4, rd_channels=2), **convs(bias=False), **norms()),
        {"branch.f": "", "branch.se": ""},
        call=residual_se,
    ),
    "eca": Oracle(lambda: EcaModule(kernel_size=3)),
    "cbam": Oracle(
        lambda: CbamModule(4, rd_channels=2), {"spatial.conv": "spatial.conv.conv", "spatial.norm": "spatial.conv.bn"}
    ),
    "selective_kernel": Oracle(lambda: SelectiveKernel(4, 6, rd_channels=3, split_input=False), SELECT),
    "selective_kernel_split": Oracle(
        lambda: SelectiveKernel(4, 4, rd_channels=2),
        in_branch(SELECT),
        call=lambda m, x, extras, noise: torch.relu(x + m(x)),
    ),
    "glu_residual": Oracle(Bilinear, {"branch.gate": "w", "branch.up": "v", "branch.norm": "n", "branch.down": "w2"}),
}
