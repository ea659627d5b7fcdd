"""GPT-2: a causal language model with pre-norm blocks, learnt positions and a tied head."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from pure.block import Block
from pure.compose.chain import Sequential
from pure.compose.tied import TiedHead
from pure.initializers import Constant, Normal
from pure.layers import Dropout, LayerNorm
from pure.layers.activation import ActivationLike
from pure.layers.attention import Attention
from pure.layers.embedding import Embedding, LearnedPositions
from pure.nets.transformers.parts import check_depth, feed_forward, transformer_block
from pure.skips.scaled.norm_placement import pre_norm

__all__ = ["gpt2", "gpt2_block", "gpt2_medium"]

STD = 0.02


def gpt2_block(
    features: int,
    heads: int,
    *,
    hidden: int | None = None,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    activation: ActivationLike = "gelu_tanh",
    eps: float = 1e-5,
    depth: int = 1,
) -> Block:
    """Return x ← x + attention(LN x), x ← x + W₂ gelu(W₁ LN x), with causal attention.

    Weights start normal with deviation 0.02, those of the two output projections with 0.02/√(2 · depth); biases at 0.

    extras: `attention_mask` (batch, tokens), optional: above 0 where a token may be attended to.

    Args:
        features: size of a token.
        heads: how many attention heads there are.
        hidden: size of the feed-forward layer; None for 4 · features.
        dropout: rate at the end of each branch.
        attention_dropout: rate of dropping attention probabilities.
        activation: of the feed-forward layer.
        eps: of the norms.
        depth: how many blocks the network has, for the initial values.

    Source: Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.3.

    Example:
        >>> gpt2_block(8, 2).out_shape((1, 3, 8))
        (1, 3, 8)
    """
    out_init = Normal(0.0, STD / math.sqrt(2 * depth))
    rules: dict[str, Any] = {"weight_init": Normal(0.0, STD), "bias_init": Constant(0.0), "out_init": out_init}
    return transformer_block(
        partial(pre_norm, norm=LayerNorm(features, eps), dropout=dropout),
        Attention(features, heads, causal=True, fused=True, dropout=attention_dropout, mask="attention_mask", **rules),
        feed_forward(features, hidden or 4 * features, activation, **rules),
    )


def gpt2(
    *,
    vocab_size: int = 50257,
    positions: int = 1024,
    features: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int | None = None,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    embedding_dropout: float = 0.1,
    activation: ActivationLike = "gelu_tanh",
    eps: float = 1e-5,
    head: bool = True,
) -> Block:
    """Return GPT-2, by default the small one.

    (batch, tokens) integers → logits (batch, tokens, vocab_size).
    The head is the transposed token embedding. Leaves: `body.embedding`, `body.positions`, `body.blocks.0.attention`,
    …, `body.norm`; without the head they lack `body`.

    extras: `attention_mask` (batch, tokens), optional: above 0 where a token may be attended to.

    Args:
        vocab_size: how many tokens there are.
        positions: the most tokens that a sample can have.
        features: size of a token.
        depth: how many blocks there are.
        heads: how many attention heads a block has.
        hidden: size of the feed-forward layers; None for 4 · features.
        dropout: rate at the end of each branch.
        attention_dropout: rate of dropping attention probabilities.
        embedding_dropout: rate after the embeddings.
        activation: of the feed-forward layers.
        eps: of the norms.
        head: False returns the last norm's output (batch, tokens, features) instead of logits.

    Raises:
        ArgumentError: no layer, or heads that do not divide the features.

    Source: Radford et al. 2019, section 2.3 and table 2; 124,439,808 parameters.

    Example:
        >>> net = gpt2(vocab_size=11, positions=8, features=8, depth=2, heads=2)
        >>> net.out_shape((3, 5))
        (3, 5, 11)
    """
    check_depth(depth)
    block = gpt2_block(
        features,
        heads,
        hidden=hidden,
        dropout=dropout,
        attention_dropout=attention_dropout,
        activation=activation,
        eps=eps,
        depth=depth,
    )
    body = Sequential(
        embedding=Embedding(vocab_size, features, weight_init=Normal(0.0, STD)),
        positions=LearnedPositions(positions, features, weight_init=Normal(0.0, STD)),
        dropout=Dropout(embedding_dropout),
        blocks=Sequential(*[block] * depth),
        norm=LayerNorm(features, eps),
    )
    return TiedHead(body) if head else body


def gpt2_medium(**options: Any) -> Block:
    """Return GPT-2 medium: 24 blocks of 1024 features and 16 heads.

    354,823,168 parameters; options as for `gpt2`.

    Example:
        >>> gpt2_medium(vocab_size=11, depth=1).out_shape((3, 5))
        (3, 5, 11)
    """
    return gpt2(**{"features": 1024, "depth": 24, "heads": 16, **options})
