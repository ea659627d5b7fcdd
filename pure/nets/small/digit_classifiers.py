"""Deep classifiers that differ in their skips alone, to compare how gradients flow.

The skips are none, added, gated or dense. All map (batch, in_features) to (batch, out_features): a linear stem with
relu, `depth` layers, a linear head. Their leaves stand under `stem.linear`, `layers.0`, … and `head`. The counts are
those of 784 → 50 → 10 with 50 layers.
"""

from __future__ import annotations

from pure.block import Block
from pure.compose import Sequential, Tag
from pure.errors import ArgumentError
from pure.initializers import Initializer, KaimingNormal
from pure.layers import Activation, Linear
from pure.layers.activation import ActivationLike
from pure.skips import DenseSkip, Highway, Residual

__all__ = ["dense_mlp", "highway_mlp", "plain_mlp", "skip_mlp"]


def _layer(in_features: int, out_features: int, activation: ActivationLike, rule: Initializer) -> Sequential:
    return Sequential(linear=Linear(in_features, out_features, weight_init=rule), act=Activation(activation))


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise ArgumentError(f"depth={depth}: expected at least one hidden layer")


def _classifier(in_features: int, width: int, out_features: int, layers: list[Block], last: int) -> Block:
    return Sequential(
        stem=Sequential(linear=Linear(in_features, width), act=Activation("relu")),
        layers=Sequential(*layers),
        head=Linear(last, out_features),
    )


def plain_mlp(
    in_features: int, width: int, out_features: int, depth: int, weight_init: Initializer = KaimingNormal()
) -> Block:
    """Return `depth` layers x ← relu(W x + b) between stem and head; 167,260 parameters.

    Args:
        in_features: size of the input.
        width: size of the stream.
        out_features: outputs of the head.
        depth: how many layers.
        weight_init: rule for the layers, He's by default.

    Raises:
        ArgumentError: a depth below 1.

    Example:
        >>> plain_mlp(4, 3, 2, 5).out_shape((7, 4))
        (7, 2)
    """
    _check_depth(depth)
    layers: list[Block] = [
        Sequential(**_layer(width, width, "relu", weight_init).children(), out=Tag()) for _ in range(depth)
    ]
    return _classifier(in_features, width, out_features, layers, width)


def skip_mlp(
    in_features: int,
    width: int,
    out_features: int,
    depth: int,
    scale: float | None = None,
    weight_init: Initializer = KaimingNormal(),
) -> Block:
    """Return `depth` layers x ← x + scale · relu(W x + b); 167,260 parameters.

    Args:
        in_features: size of the input.
        width: size of the stream.
        out_features: outputs of the head.
        depth: how many layers.
        scale: constant in front of each branch; None for 1/√depth.
        weight_init: rule for the layers, He's by default.

    Raises:
        ArgumentError: a depth below 1.

    Source: He et al. 2015 (1512.03385), equation 1.

    Example:
        >>> skip_mlp(4, 3, 2, 5).out_shape((7, 4))
        (7, 2)
    """
    _check_depth(depth)
    factor = depth**-0.5 if scale is None else scale
    layers: list[Block] = [Residual(_layer(width, width, "relu", weight_init), scale=factor) for _ in range(depth)]
    return _classifier(in_features, width, out_features, layers, width)


def highway_mlp(in_features: int, width: int, out_features: int, depth: int, gate_bias: float = -2.0) -> Block:
    """Return `depth` highway layers x ← T(x) ⊙ H(x) + (1 − T(x)) ⊙ x; 294,760 parameters.

    Args:
        in_features: size of the input.
        width: size of the stream.
        out_features: outputs of the head.
        depth: how many layers.
        gate_bias: initial bias of the transform gates T.

    Raises:
        ArgumentError: a depth below 1.

    Source: Srivastava et al. 2015 (1505.00387), equation 3.

    Example:
        >>> highway_mlp(4, 3, 2, 5).out_shape((7, 4))
        (7, 2)
    """
    _check_depth(depth)
    layers: list[Block] = [Highway.dense(width, gate_bias=gate_bias) for _ in range(depth)]
    return _classifier(in_features, width, out_features, layers, width)


def dense_mlp(
    in_features: int,
    width: int,
    out_features: int,
    depth: int,
    growth: int = 8,
    weight_init: Initializer = KaimingNormal(),
) -> Block:
    """Return `depth` layers x ← [x, relu(W x + b)]; 142,560 parameters.

    Args:
        in_features: size of the input.
        width: size of the stream after the stem.
        out_features: outputs of the head.
        depth: how many layers.
        growth: features that each layer adds.
        weight_init: rule for the layers, He's by default.

    Raises:
        ArgumentError: a depth below 1.

    Source: Huang et al. 2016 (1608.06993), equation 2.

    Example:
        >>> dense_mlp(4, 3, 2, 5).out_shape((7, 4))
        (7, 2)
    """
    _check_depth(depth)
    widths = [width + growth * index for index in range(depth + 1)]
    layers: list[Block] = [DenseSkip(_layer(size, growth, "relu", weight_init)) for size in widths[:-1]]
    return _classifier(in_features, width, out_features, layers, widths[-1])
