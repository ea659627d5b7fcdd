"""Whole networks: `create(name, **options)` or the function of that name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pure.block import Block
from pure.errors import ArgumentError, nearest
from pure.nets.digits import dense_mlp, highway_mlp, plain_mlp, skip_mlp
from pure.nets.tutorial import (
    dynamic_net,
    residual_block,
    residual_mlp,
    residual_mlp_block,
    simple_block,
    simple_block_with_skip,
    tutorial_resnet,
)

__all__ = [
    "create",
    "dense_mlp",
    "dynamic_net",
    "highway_mlp",
    "names",
    "plain_mlp",
    "residual_block",
    "residual_mlp",
    "residual_mlp_block",
    "simple_block",
    "simple_block_with_skip",
    "skip_mlp",
    "tutorial_resnet",
]

NETWORKS: Final[dict[str, Callable[..., Block]]] = {
    "simple_block": simple_block,
    "simple_block_with_skip": simple_block_with_skip,
    "dynamic_net": dynamic_net,
    "residual_block": residual_block,
    "tutorial_resnet": tutorial_resnet,
    "residual_mlp": residual_mlp,
    "residual_mlp_block": residual_mlp_block,
    "plain_mlp": plain_mlp,
    "skip_mlp": skip_mlp,
    "dense_mlp": dense_mlp,
    "highway_mlp": highway_mlp,
}


def names() -> list[str]:
    """Return the names that `create` knows."""
    return list(NETWORKS)


def create(name: str, **options: Any) -> Block:
    """Return the network of that name.

    Args:
        name: one of `names()`.
        options: the arguments of the function of that name.

    Raises:
        ArgumentError: an unknown name, or options that the network does not take.

    Example:
        >>> create("simple_block", in_features=2, hidden_features=3, out_features=2).out_shape((5, 2))
        (5, 2)
    """
    if name not in NETWORKS:
        raise ArgumentError(f"network {name!r} is unknown{nearest(name, NETWORKS)}: one of {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name](**options)
    except TypeError as error:
        raise ArgumentError(f"network {name!r}: {error}") from error
