"""The names of transformers for GPT-2, which stores affine weights transposed, (in, out)."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from pure.interop.scheme import Rule, Scheme

__all__ = ["SCHEMES"]

AFFINE = {
    "attention.branch.f.qkv": "attn.c_attn",
    "attention.branch.f.out": "attn.c_proj",
    "mlp.branch.f.fc1": "mlp.c_fc",
    "mlp.branch.f.fc2": "mlp.c_proj",
}
NORMS = {"attention.branch.norm": "ln_1", "mlp.branch.norm": "ln_2"}


def transposed(weight: Tensor) -> Tensor:
    """Return the transposed matrix, contiguous, as safetensors requires."""
    return weight.t().contiguous()


def _rules(body: str) -> tuple[Rule, ...]:
    """Return the rules for a network whose layers are under `body` here."""
    block = f"{body}blocks.{{i}}."
    layer = "h.{i}."
    weights = [
        Rule(f"{block}{o}.weight", f"{layer}{t}.weight", load=transposed, save=transposed) for o, t in AFFINE.items()
    ]
    biases = [Rule(f"{block}{o}.bias", f"{layer}{t}.bias") for o, t in AFFINE.items()]
    norms = [Rule(f"{block}{o}.{{leaf}}", f"{layer}{t}.{{leaf}}") for o, t in NORMS.items()]
    return (
        Rule(f"{body}embedding.weight", "wte.weight"),
        Rule(f"{body}positions.weight", "wpe.weight"),
        Rule(f"{body}norm.{{leaf}}", "ln_f.{leaf}"),
        *weights,
        *biases,
        *norms,
    )


MASKS = (r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",)

SCHEMES: Final[tuple[Scheme, ...]] = (
    Scheme(
        "transformers",
        "GPT-2 with its head (GPT2LMHeadModel)",
        _rules("body."),
        ignored=MASKS,
        copies={"lm_head.weight": "wte.weight"},
        prefix="transformer.",
    ),
    Scheme("transformers", "GPT-2 without its head (GPT2Model)", _rules(""), ignored=MASKS),
)
