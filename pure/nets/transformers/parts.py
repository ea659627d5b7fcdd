"""Parts that all transformers here share: the feed-forward branch and the block."""

from __future__ import annotations

from collections.abc import Callable

from pure.block import Block
from pure.compose.chain import Sequential
from pure.errors import ArgumentError
from pure.initializers import Initializer, KaimingUniform
from pure.layers import Activation, Dropout, Linear
from pure.layers.activation import ActivationLike

__all__ = ["check_depth", "feed_forward", "transformer_block"]

DEFAULT = KaimingUniform()


def check_depth(depth: int) -> None:
    """Raise unless there is a layer.

    Raises:
        ArgumentError: a depth below 1.
    """
    if depth < 1:
        raise ArgumentError(f"depth={depth}: expected at least 1")


def feed_forward(
    features: int,
    hidden: int,
    activation: ActivationLike = "gelu",
    *,
    bias: bool = True,
    dropout: float = 0.0,
    weight_init: Initializer = DEFAULT,
    bias_init: Initializer | None = None,
    out_init: Initializer | None = None,
) -> Block:
    """Return y = W₂ σ(W₁ x + b₁) + b₂ over the last axis, leaves `fc1` and `fc2`.

    Args:
        features: size of a token.
        hidden: size between the two maps.
        activation: σ, a name as in `pure.layers.Activation` or a function.
        bias: whether there are b₁ and b₂.
        dropout: rate of dropping values after σ, in training.
        weight_init: rule for the weights.
        bias_init: rule for the biases; None is uniform within 1/√fan_in.
        out_init: rule for W₂; None for `weight_init`.

    Source: Vaswani et al. 2017 (1706.03762), section 3.3.

    Example:
        >>> feed_forward(4, 16).out_shape((2, 3, 4))
        (2, 3, 4)
    """
    drop = {"dropout": Dropout(dropout)} if dropout else {}
    return Sequential(
        fc1=Linear(features, hidden, bias, weight_init, bias_init),
        act=Activation(activation),
        **drop,
        fc2=Linear(hidden, features, bias, out_init or weight_init, bias_init),
    )


def transformer_block(placed: Callable[[Block], Block], attention: Block, mlp: Block) -> Block:
    """Return attention and feed-forward layer, each in the skip and norm that `placed` adds.

    Args:
        placed: makes the residual block of a branch, such as `lambda branch: pre_norm(branch, LayerNorm(8))`.
        attention: the first branch.
        mlp: the second one.

    Source: Vaswani et al. 2017 (1706.03762), section 3.1.

    Example:
        >>> import torch
        >>> from pure import LayerNorm
        >>> from pure.layers.attention import Attention
        >>> from pure.skips.scaled.norm_placement import pre_norm
        >>> block = transformer_block(lambda f: pre_norm(f, LayerNorm(8)), Attention(8, 2), feed_forward(8, 16))
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> block(params, torch.ones(2, 3, 8)).shape
        torch.Size([2, 3, 8])
    """
    return Sequential(attention=placed(attention), mlp=placed(mlp))
