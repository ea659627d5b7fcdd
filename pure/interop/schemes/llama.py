"""The names of transformers for Llama, Mistral, Qwen 2 and 3, and Gemma 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
    "attention.branch.f.q_norm": "self_attn.q_norm",
    "attention.branch.f.k_norm": "self_attn.k_norm",
}
SANDWICH = {
    "attention.branch.out_norm": "post_attention_layernorm",
    "mlp.branch.norm": "pre_feedforward_layernorm",
    "mlp.branch.out_norm": "post_feedforward_layernorm",
}
"""Gemma 2's norms where they differ."""


def _rules(body: str, prefix: str, layer: Mapping[str, str] = LAYER) -> tuple[Rule, ...]:
    """Return the rules for a network whose layers are under `body` here and under `prefix` in the library."""
    return (
        Rule(f"{body}embedding.weight", f"{prefix}embed_tokens.weight"),
        *(Rule(f"{body}blocks.{{i}}.{o}.{{leaf}}", f"{prefix}layers.{{i}}.{t}.{{leaf}}") for o, t in layer.items()),
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
    Scheme(
        "transformers",
        "Gemma 2 (Gemma2ForCausalLM)",
        tuple(replace(rule, ours="logits." + rule.ours) for rule in _rules("body.", "model.", LAYER | SANDWICH)),
        ignored=ANGLES,
        copies={"lm_head.weight": "model.embed_tokens.weight"},
    ),
    Scheme(
        "transformers",
        "Gemma 2 without its head (Gemma2Model)",
        _rules("", "", LAYER | SANDWICH),
        ignored=ANGLES,
        needs="out_norm",
    ),
)
