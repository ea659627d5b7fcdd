"""Attention, the blocks of transformers, and tiny language models."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from pure.block import Block
from pure.catalogue.cases import Case
from pure.catalogue.parts import TOKENS
from pure.compose import Sequential
from pure.layers import LayerNorm, RMSNorm
from pure.layers.attention import Attention
from pure.layers.embedding import BertEmbeddings, Embedding, LearnedPositions
from pure.layers.rotary import Rotary
from pure.layers.tokens import FirstToken
from pure.nets.transformers.bert import bert_base, bert_layer
from pure.nets.transformers.gpt2 import gpt2, gpt2_block
from pure.nets.transformers.llama import llama, llama_block
from pure.nets.transformers.parts import feed_forward, transformer_block
from pure.nets.transformers.vit_parts import AttentionPool
from pure.skips.gated.glu import GLU
from pure.skips.scaled.norm_placement import parallel_branches, pre_norm, res_post_norm, sandwich
from pure.skips.streams.value_residual import ValueResidual

__all__ = ["CASES"]

INDICES: Final = (3, 5)
"""(batch, tokens)."""
VASWANI: Final = "Vaswani et al. 2017 (1706.03762), section 3.2"
ROTARY: Final = "Su et al. 2021 (2104.09864), equation 34"
SMALL: Final[dict[str, Any]] = {"vocab_size": 11, "features": 8, "depth": 2}


def shared(**options: Any) -> Block:
    """Return causal rotary attention: four query heads, two key and value heads, no biases."""
    return Attention(8, 4, kv_heads=2, causal=True, bias=False, **{"rotary": Rotary(), **options})


CASES: Final[tuple[Case, ...]] = (
    Case(
        "embedding",
        "layer",
        lambda: Embedding(7, 4, padding=2),
        INDICES,
        "W[x]",
        "torch.nn.Embedding",
        init="N(0, 1), the padding row 0",
        oracle="torch.nn.Embedding",
        tokens=7,
        smooth=False,
    ),
    Case("learned_positions", "layer", lambda: LearnedPositions(9, 8), TOKENS, "x + W[:tokens]", "1705.03122"),
    Case(
        "bert_embeddings",
        "layer",
        lambda: BertEmbeddings(11, 8, positions=9, dropout=0.25),
        INDICES,
        "LN(word[x] + type[t] + position)",
        "1810.04805, figure 2",
        oracle="transformers.models.bert.modeling_bert.BertEmbeddings",
        tokens=11,
    ),
    Case("first_token", "layer", FirstToken, TOKENS, "x[:, 0]", "1810.04805, section 3"),
    Case(
        "attention",
        "layer",
        lambda: Attention(8, 2, fused=True),
        TOKENS,
        "Wₒ softmax(q kᵀ / √d) v",
        VASWANI,
        oracle="torch.nn.MultiheadAttention",
    ),
    Case(
        "attention_pool",
        "transformer",
        lambda: AttentionPool(8, 2, skip=1),
        TOKENS,
        "W₀ softmax(Wq q Kᵀ / √d) V + b₀, one learnt q, without the first token",
        "1810.00825, section 3.2; Zhai et al. 2021 (2106.04560), appendix D",
    ),
    Case(
        "attention_mask",
        "layer",
        lambda: Attention(8, 2, out_bias=False, dropout=0.25),
        TOKENS,
        "Wₒ softmax(q kᵀ / √d + log mask) v",
        VASWANI,
        extras=(("mask", (3, 5)),),
    ),
    Case(
        "attention_causal",
        "layer",
        lambda: Attention(8, 2, causal=True, fused=True, dropout=0.25),
        TOKENS,
        "Wₒ softmax(q kᵀ / √d, earlier tokens) v",
        VASWANI,
        oracle="transformers.models.gpt2.modeling_gpt2.GPT2Attention",
    ),
    Case(
        "attention_grouped",
        "layer",
        lambda: shared(dropout=0.25),
        TOKENS,
        "Wₒ softmax(R q (R k)ᵀ / √d) v, k and v shared by groups of heads",
        f"2305.13245; {ROTARY}",
        oracle="transformers.models.llama.modeling_llama.LlamaAttention",
    ),
    Case(
        "attention_gated",
        "gated",
        lambda: shared(
            head_features=4,
            rotary=Rotary(2, 100.0),
            q_norm=RMSNorm(4),
            k_norm=RMSNorm(4),
            gated=True,
        ),
        TOKENS,
        "Wₒ (σ(W_g x) ⊙ attention(RMS q, RMS k, v))",
        "Qiu et al. 2025 (2505.06708), section 2.2, gate after attention, one value a feature",
        oracle="transformers.models.qwen3_next.modeling_qwen3_next.Qwen3NextAttention",
    ),
    Case(
        "value_residual",
        "dense",
        lambda: Sequential(
            layers=ValueResidual(Attention(8, 2, causal=True, bias=False), LayerNorm(8, bias=False), depth=3),
            norm=LayerNorm(8, bias=False),
        ),
        TOKENS,
        "x + attention(LN x) with V ← ½ V₁ + ½ Vₗ",
        "Zhou et al. 2024 (2410.17897)",
        oracle="x_transformers.Decoder",
    ),
    Case(
        "gpt2_block",
        "transformer",
        partial(gpt2_block, 8, 2, dropout=0.25, attention_dropout=0.25),
        TOKENS,
        "x + attention(LN x), x + W₂ gelu(W₁ LN x)",
        "Radford et al. 2019, section 2.3",
        init="N(0, 0.02²), output projections N(0, 0.02² / 2N)",
        oracle="transformers.models.gpt2.modeling_gpt2.GPT2Block",
    ),
    Case(
        "bert_layer",
        "transformer",
        partial(bert_layer, 8, 2, dropout=0.25, attention_dropout=0.25),
        TOKENS,
        "LN(x + attention(x)), LN(x + W₂ gelu(W₁ x))",
        "1810.04805, section 3; 1706.03762, section 3.1",
        oracle="transformers.models.bert.modeling_bert.BertLayer",
        extras=(("attention_mask", (3, 5)),),
    ),
    Case(
        "llama_block",
        "transformer",
        partial(llama_block, 8, 4, 12, kv_heads=2),
        TOKENS,
        "x + attention(RMS x), x + W_d (silu(W_g RMS x) ⊙ W_u RMS x)",
        "2302.13971, section 2.2",
        oracle="transformers.models.llama.modeling_llama.LlamaDecoderLayer",
    ),
    Case(
        "gptj_block",
        "transformer",
        lambda: parallel_branches(
            LayerNorm(8),
            attention=Attention(8, 2, causal=True, bias=False, rotary=Rotary(2, interleaved=True), dropout=0.25),
            mlp=feed_forward(8, 16, "gelu_tanh"),
        ),
        TOKENS,
        "x + attention(LN x) + mlp(LN x)",
        f"Wang and Komatsuzaki 2021, GPT-J; {ROTARY}",
        oracle="transformers.models.gptj.modeling_gptj.GPTJBlock",
    ),
    Case(
        "gpt_neox_block",
        "transformer",
        lambda: parallel_branches(
            None,
            attention=Sequential(norm=LayerNorm(8), f=Attention(8, 2, causal=True, fused=True, rotary=Rotary(2))),
            mlp=Sequential(norm=LayerNorm(8), f=feed_forward(8, 16)),
        ),
        TOKENS,
        "x + attention(LN₁ x) + mlp(LN₂ x)",
        "Black et al. 2022 (2204.06745), section 2.1",
        oracle="transformers.models.gpt_neox.modeling_gpt_neox.GPTNeoXLayer",
    ),
    Case(
        "gemma2_block",
        "transformer",
        lambda: transformer_block(
            partial(sandwich, norm=RMSNorm(8)),
            shared(scale=16**-0.5, softcap=2.0),
            GLU(8, 12, "gelu_tanh", bias=False),
        ),
        TOKENS,
        "x + RMS(attention(RMS x)), x + RMS(mlp(RMS x)), scores c tanh(s / c)",
        "Gemma 2 (2408.00118), section 2; 2502.02732",
        oracle="transformers.models.gemma2.modeling_gemma2.Gemma2DecoderLayer",
    ),
    Case(
        "olmo2_block",
        "transformer",
        lambda: transformer_block(
            partial(res_post_norm, norm=RMSNorm(8)),
            shared(q_norm=RMSNorm(8), k_norm=RMSNorm(4), norm_heads=False),
            GLU(8, 12, bias=False),
        ),
        TOKENS,
        "x + RMS(attention(x)), x + RMS(mlp(x))",
        "OLMo 2 (2501.00656)",
        oracle="transformers.models.olmo2.modeling_olmo2.Olmo2DecoderLayer",
    ),
    Case(
        "granite_block",
        "transformer",
        lambda: transformer_block(
            partial(pre_norm, norm=RMSNorm(8), scale=0.22), shared(scale=0.3), GLU(8, 12, bias=False)
        ),
        TOKENS,
        "x + m attention(RMS x), x + m mlp(RMS x)",
        "IBM 2024, Granite 3.0, residual_multiplier",
        oracle="transformers.models.granite.modeling_granite.GraniteDecoderLayer",
    ),
    Case(
        "gpt2_tiny",
        "network",
        partial(gpt2, **SMALL, heads=2, positions=9),
        INDICES,
        "blocks(W[x] + position) Wᵀ",
        "Radford et al. 2019, section 2.3",
        init="N(0, 0.02²), output projections N(0, 0.02² / 2N)",
        oracle="transformers.GPT2LMHeadModel",
        tokens=11,
    ),
    Case(
        "bert_tiny",
        "network",
        partial(bert_base, **SMALL, heads=2, positions=9, pooler=True),
        INDICES,
        "tanh(W layers(embeddings(x))₀)",
        "1810.04805, section 3",
        oracle="transformers.BertModel",
        tokens=11,
    ),
    Case(
        "llama_tiny",
        "network",
        partial(llama, **SMALL, heads=4, kv_heads=2, hidden=12),
        INDICES,
        "W blocks(embedding(x))",
        "2302.13971, section 2.2",
        oracle="transformers.LlamaForCausalLM",
        tokens=11,
    ),
    Case(
        "llama_tied",
        "network",
        partial(llama, **SMALL, heads=2, hidden=12, tied=True),
        INDICES,
        "blocks(E[x]) Eᵀ",
        "2302.13971, section 2.2; 1608.05859",
        oracle="transformers.LlamaForCausalLM",
        tokens=11,
    ),
)
