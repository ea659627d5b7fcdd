"""BERT: a bidirectional encoder with post-norm layers."""

from __future__ import annotations

from functools import partial

from pure.block import Block
from pure.compose.chain import Sequential
from pure.initializers import Constant, Normal
from pure.layers import Activation, LayerNorm, Linear
from pure.layers.activation import ActivationLike
from pure.layers.attention import Attention
from pure.layers.embedding import BertEmbeddings
from pure.layers.tokens import FirstToken
from pure.nets.transformers.parts import check_depth, feed_forward, transformer_block
from pure.skips.scaled.norm_placement import post_norm

__all__ = ["bert_base", "bert_layer"]

WEIGHT, ZERO = Normal(0.0, 0.02), Constant(0.0)


def bert_layer(
    features: int,
    heads: int,
    *,
    hidden: int | None = None,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    activation: ActivationLike = "gelu",
    eps: float = 1e-12,
) -> Block:
    """Return x ← LN(x + attention(x)), x ← LN(x + W₂ gelu(W₁ x)).

    Attention is bidirectional. Weights start normal with deviation 0.02, biases at 0.

    extras: `attention_mask` (batch, tokens), optional: above 0 where a token may be attended to.

    Args:
        features: size of a token.
        heads: how many attention heads there are.
        hidden: size of the feed-forward layer; None for 4 · features.
        dropout: rate at the end of each branch.
        attention_dropout: rate of dropping attention probabilities.
        activation: of the feed-forward layer.
        eps: of the norms.

    Source: Devlin et al. 2018 (1810.04805), section 3; Vaswani et al. 2017 (1706.03762), section 3.1.

    Example:
        >>> bert_layer(8, 2).out_shape((1, 3, 8))
        (1, 3, 8)
    """
    return transformer_block(
        partial(post_norm, norm=LayerNorm(features, eps), dropout=dropout),
        Attention(
            features, heads, dropout=attention_dropout, mask="attention_mask", weight_init=WEIGHT, bias_init=ZERO
        ),
        feed_forward(features, hidden or 4 * features, activation, weight_init=WEIGHT, bias_init=ZERO),
    )


def bert_base(
    *,
    vocab_size: int = 30522,
    positions: int = 512,
    types: int = 2,
    features: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int | None = None,
    padding: int | None = 0,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    activation: ActivationLike = "gelu",
    eps: float = 1e-12,
    count_tokens: bool = False,
    pooler: bool = False,
) -> Block:
    """Return BERT's encoder, by default that of the base model.

    (batch, tokens) integers → (batch, tokens, features).

    extras, all optional: `attention_mask` (batch, tokens), above 0 where a token may be attended to;
    `token_type_ids` (batch, tokens), integers, 0 if not given.

    Args:
        vocab_size: how many tokens there are.
        positions: the most tokens that a sample can have.
        types: how many kinds of segment there are.
        features: size of a token.
        depth: how many layers there are.
        heads: how many attention heads a layer has.
        hidden: size of the feed-forward layers; None for 4 · features.
        padding: index of the token whose vector starts at zero and receives no gradient.
        dropout: rate after the embeddings and at the end of each branch.
        attention_dropout: rate of dropping attention probabilities.
        activation: of the feed-forward layers.
        eps: of the norms.
        count_tokens: whether positions count the tokens other than padding, from padding + 1 on (RoBERTa).
        pooler: whether the output is tanh(W x₀ + b) of the first token, (batch, features), instead.

    Raises:
        ArgumentError: no layer, or heads that do not divide the features.

    Source: Devlin et al. 2018 (1810.04805), section 3; 108,891,648 parameters, 109,482,240 with the pooler.

    Example:
        >>> net = bert_base(vocab_size=11, positions=8, features=8, depth=2, heads=2)
        >>> net.out_shape((3, 5))
        (3, 5, 8)
    """
    check_depth(depth)
    layer = bert_layer(
        features,
        heads,
        hidden=hidden,
        dropout=dropout,
        attention_dropout=attention_dropout,
        activation=activation,
        eps=eps,
    )
    parts: dict[str, Block] = {
        "embeddings": BertEmbeddings(
            vocab_size, features, positions, types, padding, dropout, eps, WEIGHT, count_tokens
        ),
        "layers": Sequential(*[layer] * depth),
    }
    if pooler:
        dense = Linear(features, features, weight_init=WEIGHT, bias_init=ZERO)
        parts["pooler"] = Sequential(first=FirstToken(), dense=dense, act=Activation("tanh"))
    return Sequential(**parts)
