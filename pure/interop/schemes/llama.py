"""The names of transformers for Llama."""

from __future__ import annotations

from typing import Final

from pure.interop.scheme import Rule, Scheme

__all__ = ["SCHEMES"]

LAYER = {
    "attention.branch.norm": "input_layernorm",
    "attention.branch.f.q": "self_attn.q_proj",
    "attention.branch.f.k": "self_attn.k_proj",
    "attention.branch.f.v": "self_attn.v_proj",
    "attention.branch.f.out": "self_attn.o_proj",
    "mlp.branch.norm": "post_attention_layernorm",
    "mlp.branch.f.gate": "mlp.gate_proj",
    "mlp.branch.f.up": "mlp.up_proj",
    "mlp.branch.f.down": "mlp.down_proj",
}


def _rules(body: str, prefix: str) -> tuple[Rule, ...]:
    """Return the rules for a network whose layers are under `body` here and under `prefix` in the library."""
    return (
        Rule(f"{body}embedding.weight", f"{prefix}embed_tokens.weight"),
        *(Rule(f"{body}blocks.{{i}}.{o}.{{leaf}}", f"{prefix}layers.{{i}}.{t}.{{leaf}}") for o, t in LAYER.items()),
        Rule(f"{body}norm.weight", f"{prefix}norm.weight"),
    )


TIED = _rules("body.", "model.")
ANGLES = (r".*rotary_emb\.inv_freq",)

SCHEMES: Final[tuple[Scheme, ...]] = (
    Scheme(
        "transformers",
        "Llama with a tied head (LlamaForCausalLM)",
        TIED,
        ignored=ANGLES,
        copies={"lm_head.weight": "model.embed_tokens.weight"},
    ),
    Scheme(
        "transformers",
        "Llama (LlamaForCausalLM)",
        (Rule("head.weight", "lm_head.weight"), *TIED),
        ignored=ANGLES,
    ),
    Scheme("transformers", "Llama without its head (LlamaModel)", _rules("", ""), ignored=ANGLES),
)
