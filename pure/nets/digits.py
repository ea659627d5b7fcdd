"""Deep classifiers of one shape and four kinds of skip, for comparing how gradients flow: none, added, gated, dense."""

from __future__ import annotations

from pure.block import Block
from pure.compose import Sequential, Tag
from pure.errors import ArgumentError
from pure.initializers import Initializer, KaimingNormal
from pure.layers import Activation, Linear
from pure.skips import DenseSkip, Highway, Residual

__all__ = ["dense_mlp", "highway_mlp", "plain_mlp", "skip_mlp"]


def _layer(in_features: int, out_features: int, activation: str, rule: Initializer) -> Sequential:
    return Sequential(linear=Linear(in_features, out_features, weight_init=rule), act=Activation(activation))


def _classifier(in_features: int, width: int, out_features: int, layers: list[Block], last: int) -> Block:
    if not layers:
        raise ArgumentError("depth=0: expected at least one hidden layer")
    return Sequential(
        stem=Sequential(linear=Linear(in_features, width), act=Activation("relu")),
        layers=Sequential(*layers),
        head=Linear(last, out_features),
    )


def plain_mlp(
    in_features: int, width: int, out_features: int, depth: int, weight_init: Initializer = KaimingNormal()
) -> Block:
    """Return `depth` layers x ← relu(W x + b) between a stem and a linear head; He init by default."""
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
    """Return `depth` layers x ← x + scale · relu(W x + b); `scale` is 1/√depth unless given."""
    factor = depth**-0.5 if scale is None else scale
    layers: list[Block] = [Residual(_layer(width, width, "relu", weight_init), scale=factor) for _ in range(depth)]
    return _classifier(in_features, width, out_features, layers, width)


def highway_mlp(in_features: int, width: int, out_features: int, depth: int, gate_bias: float = -2.0) -> Block:
    """Return `depth` highway layers (Srivastava et al. 2015), their transform gates biased to `gate_bias` at first."""
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
    """Return `depth` layers x ← [x, relu(W x + b)], each adding `growth` features (Huang et al. 2016)."""
    widths = [width + growth * index for index in range(depth + 1)]
    layers: list[Block] = [DenseSkip(_layer(size, growth, "relu", weight_init)) for size in widths[:-1]]
    return _classifier(in_features, width, out_features, layers, widths[-1])
