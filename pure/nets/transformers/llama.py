"""Llama: a causal language model with RMSNorm, rotary positions, grouped queries, SwiGLU."""

from __future__ import annotations

from functools import partial

from pure.block import Block
from pure.compose.chain import Sequential
from pure.compose.tied import TiedHead
from pure.initializers import Constant, Normal
from pure.layers import Linear, RMSNorm
from pure.layers.attention import Attention
from pure.layers.embedding import Embedding
from pure.layers.rotary import Rotary
from pure.nets.transformers.parts import check_depth, transformer_block
from pure.skips.gated.glu import GLU
from pure.skips.scaled.norm_placement import pre_norm

__all__ = ["llama", "llama_block"]

WEIGHT, ZERO = Normal(0.0, 0.02), Constant(0.0)


def llama_block(
    features: int,
    heads: int,
    hidden: int,
    *,
    kv_heads: int | None = None,
    head_features: int | None = None,
    base: float = 10000.0,
    rotary: Rotary | None = None,
    attention_bias: bool = False,
    out_bias: bool | None = None,
    qk_norm: bool = False,
    window: int | None = None,
    attention_dropout: float = 0.0,
    eps: float = 1e-6,
) -> Block:
    """Return x ← x + attention(RMS x), x ← x + W_d (silu(W_g RMS x) ⊙ W_u RMS x).

    Attention is causal, with rotary positions. Weights start normal with deviation 0.02.

    extras: `attention_mask` (batch, tokens), optional: above 0 where a token may be attended to.

    Args:
        features: size of a token.
        heads: how many attention heads there are.
        hidden: size of the feed-forward layer.
        kv_heads: heads of keys and values, each shared by heads / kv_heads queries; None for `heads`.
        head_features: size of a head; None for features / heads.
        base: of the rotary wavelengths.
        rotary: rotary positions of another form, in place of `base`.
        attention_bias: whether the four attention maps have a bias.
        out_bias: whether the output map has one; None for `attention_bias` (Qwen 2 has False).
        qk_norm: whether each head's queries and keys have a norm (Qwen 3).
        window: how many tokens each one sees at most; None for all earlier ones (Mistral 7B: 4096).
        attention_dropout: rate of dropping attention probabilities.
        eps: of the norms.

    Source: Touvron et al. 2023 (2302.13971), section 2.2, and (2307.09288), section 2.2 for shared keys and values.

    Example:
        >>> llama_block(8, 4, 12, kv_heads=2).out_shape((1, 3, 8))
        (1, 3, 8)
    """
    size = features // heads if head_features is None else head_features
    norm = RMSNorm(size, eps) if qk_norm else None
    attention = Attention(
        features,
        heads,
        kv_heads=kv_heads,
        head_features=head_features,
        causal=True,
        bias=attention_bias,
        out_bias=out_bias,
        rotary=Rotary(base=base) if rotary is None else rotary,
        q_norm=norm,
        k_norm=norm,
        window=window,
        dropout=attention_dropout,
        mask="attention_mask",
        weight_init=WEIGHT,
        bias_init=ZERO,
    )
    mlp = GLU(features, hidden, "silu", bias=False, weight_init=WEIGHT, down_init=WEIGHT)
    return transformer_block(partial(pre_norm, norm=RMSNorm(features, eps)), attention, mlp)


def llama(
    *,
    vocab_size: int = 32000,
    features: int = 4096,
    depth: int = 32,
    heads: int = 32,
    kv_heads: int | None = None,
    head_features: int | None = None,
    hidden: int = 11008,
    base: float = 10000.0,
    rotary: Rotary | None = None,
    attention_bias: bool = False,
    out_bias: bool | None = None,
    qk_norm: bool = False,
    window: int | None = None,
    attention_dropout: float = 0.0,
    eps: float = 1e-6,
    tied: bool = False,
    head: bool = True,
) -> Block:
    """Return a Llama of any size, by default that of 7B.

    (batch, tokens) integers → logits (batch, tokens, vocab_size).
    Leaves: `body.embedding`, `body.blocks.0.attention`, …, `body.norm` and, unless it is tied, `head.weight`; without
    the head they lack `body`.

    extras: `attention_mask` (batch, tokens), optional: above 0 where a token may be attended to.

    Args:
        vocab_size: how many tokens there are.
        features: size of a token.
        depth: how many blocks there are.
        heads: how many attention heads a block has.
        kv_heads: heads of keys and values; None for `heads`.
        head_features: size of a head; None for features / heads.
        hidden: size of the feed-forward layers.
        base: of the rotary wavelengths; Llama 3 has 500000.
        rotary: rotary positions of another form, in place of `base`.
        attention_bias: whether the attention maps have a bias.
        out_bias: whether the output map has one; None for `attention_bias` (Qwen 2 has False).
        qk_norm: whether each head's queries and keys have a norm (Qwen 3).
        window: how many tokens each one sees at most; None for all earlier ones (Mistral 7B: 4096).
        attention_dropout: rate of dropping attention probabilities.
        eps: of the norms; Llama 2 and 3 have 1e-5.
        tied: whether the head is the transposed token embedding.
        head: False returns the last norm's output (batch, tokens, features) instead of logits.

    Raises:
        ArgumentError: no layer, or heads that do not divide the features.

    Source: Touvron et al. 2023 (2302.13971), section 2.2 and table 2; 6,738,415,616 parameters.

    Example:
        >>> net = llama(vocab_size=11, features=8, depth=2, heads=4, kv_heads=2, hidden=12)
        >>> net.out_shape((3, 5))
        (3, 5, 11)
    """
    check_depth(depth)
    block = llama_block(
        features,
        heads,
        hidden,
        kv_heads=kv_heads,
        head_features=head_features,
        base=base,
        rotary=rotary,
        attention_bias=attention_bias,
        out_bias=out_bias,
        qk_norm=qk_norm,
        window=window,
        attention_dropout=attention_dropout,
        eps=eps,
    )
    body = Sequential(
        embedding=Embedding(vocab_size, features, weight_init=WEIGHT),
        blocks=Sequential(*[block] * depth),
        norm=RMSNorm(features, eps),
    )
    if not head:
        return body
    if tied:
        return TiedHead(body)
    return Sequential(body=body, head=Linear(features, vocab_size, bias=False, weight_init=WEIGHT))
