"""Gemma 2: a causal language model with norms on both sides of each branch and bounded scores."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from pure.block import Block
from pure.compose.chain import Sequential
from pure.compose.tied import TiedHead
from pure.errors import ArgumentError
from pure.initializers import Constant, Normal
from pure.layers import Activation, RMSNorm, ScaledActivation
from pure.layers.attention import Attention
from pure.layers.embedding import Embedding
from pure.layers.rotary import Rotary
from pure.nets.transformers.parts import check_depth, transformer_block
from pure.skips.gated.glu import GLU
from pure.skips.scaled.norm_placement import sandwich

__all__ = ["gemma2"]

WEIGHT, ZERO = Normal(0.0, 0.02), Constant(0.0)


def _capped(x: Tensor, bound: float) -> Tensor:
    return torch.tanh(x / bound) * bound


def gemma2(
    *,
    vocab_size: int = 256000,
    features: int = 2304,
    depth: int = 26,
    heads: int = 8,
    kv_heads: int = 4,
    head_features: int = 256,
    hidden: int = 9216,
    base: float = 10000.0,
    query_scale: float = 256.0,
    softcap: float | None = 50.0,
    logit_softcap: float | None = 30.0,
    window: int | None = 4096,
    eps: float = 1e-6,
    head: bool = True,
) -> Block:
    """Return Gemma 2, by default that of 2B: (batch, tokens) integers → logits (batch, tokens, vocab_size).

    x ← x + N(f(N x)) with attention and then with W_d (gelu(W_g x) ⊙ W_u x); every other block sees only `window`
    tokens. The embedding is multiplied by √features, the head is its transpose. Leaves: `logits.body.embedding`,
    `logits.body.blocks.0.attention`, …, `logits.body.norm`; without the head they lack `logits.body`.

    extras: `attention_mask` (batch, tokens), optional: above 0 where a token may be attended to.

    Args:
        vocab_size: how many tokens there are.
        features: size of a token.
        depth: how many blocks there are.
        heads: how many attention heads a block has.
        kv_heads: heads of keys and values.
        head_features: size of a head.
        hidden: size of the feed-forward layers.
        base: of the rotary wavelengths.
        query_scale: scores are divided by its root.
        softcap: bound of the scores; None for none.
        logit_softcap: bound of the logits; None for none.
        window: how many tokens blocks 0, 2, … see at most; None for all.
        eps: of the norms.
        head: False returns the last norm's output (batch, tokens, features) instead of logits.

    Raises:
        ArgumentError: no layer, or heads that do not fit.

    Source: Gemma team 2024 (2408.00118), section 2 and table 1; 2,614,341,888 parameters.

    Example:
        >>> net = gemma2(vocab_size=11, features=8, depth=2, heads=4, kv_heads=2, head_features=4, hidden=12)
        >>> net.out_shape((3, 5))
        (3, 5, 11)
    """
    check_depth(depth)
    if query_scale <= 0:
        raise ArgumentError(f"query_scale={query_scale}: expected a positive number")
    norm = RMSNorm(features, eps, offset=1.0)
    mlp = GLU(features, hidden, "gelu_tanh", bias=False, weight_init=WEIGHT, down_init=WEIGHT)

    def block(index: int) -> Block:
        attention = Attention(
            features,
            heads,
            kv_heads=kv_heads,
            head_features=head_features,
            causal=True,
            bias=False,
            rotary=Rotary(base=base),
            scale=1 / math.sqrt(query_scale),
            softcap=softcap,
            window=window if index % 2 == 0 else None,
            mask="attention_mask",
            weight_init=WEIGHT,
            bias_init=ZERO,
        )
        return transformer_block(partial(sandwich, norm=norm), attention, mlp)

    body = Sequential(
        embedding=Embedding(vocab_size, features, weight_init=WEIGHT),
        scale=ScaledActivation("identity", math.sqrt(features)),
        blocks=Sequential(*[block(index) for index in range(depth)]),
        norm=norm,
    )
    if not head:
        return body
    bounded: dict[str, Block] = {}
    if logit_softcap is not None:
        bounded["cap"] = Activation(partial(_capped, bound=logit_softcap))
    return Sequential(logits=TiedHead(body), **bounded)
