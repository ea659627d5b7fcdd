"""Networks of MLPs over tokens and over features: MLP-Mixer and gMLP."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pure.block import Block
from pure.compose import Sequential
from pure.initializers import Constant
from pure.layers import DropPath, LayerNorm, Linear, MeanToken, MoveAxis, PatchEmbedding
from pure.layers.conv import Sizes
from pure.nets.transformers.parts import check_depth, feed_forward
from pure.skips.additive.residual import Residual
from pure.skips.gated.spatial_gating import gmlp_block

__all__ = ["gmlp", "mixer_block", "mlp_mixer"]

EPS = 1e-6
"""Epsilon of the norms."""


def mixer_block(features: int, tokens: int, *, token_hidden: int, channel_hidden: int, drop_path: float = 0.0) -> Block:
    """Return x ← x + MLP over tokens of LN x, x ← x + MLP over features of LN x.

    (batch, tokens, features) to the same. Leaves: `tokens.branch.norm`, `tokens.branch.mlp`, `channels.branch.norm`,
    `channels.branch.mlp`.

    Args:
        features: size of a token.
        tokens: how many tokens a sample has.
        token_hidden: width of the MLP over tokens.
        channel_hidden: width of the MLP over features.
        drop_path: rate of dropping a sample's branch, in training.

    Source: Tolstikhin et al. 2021 (2105.01601), equation 1.

    Example:
        >>> mixer_block(8, 5, token_hidden=4, channel_hidden=16).out_shape((2, 5, 8))
        (2, 5, 8)
    """
    drop: dict[str, Block] = {"drop": DropPath(drop_path)} if drop_path else {}
    swap = MoveAxis(1, -1)
    over_tokens = Sequential(
        norm=LayerNorm(features, EPS), swap=swap, mlp=feed_forward(tokens, token_hidden), back=swap, **drop
    )
    over_channels = Sequential(norm=LayerNorm(features, EPS), mlp=feed_forward(features, channel_hidden), **drop)
    return Sequential(tokens=Residual(over_tokens), channels=Residual(over_channels))


def _network(
    make: Callable[..., Block],
    image_size: Sizes,
    patch_size: Sizes,
    in_channels: int,
    num_classes: int,
    features: int,
    rates: list[float],
) -> Block:
    """Return patches, blocks, norm, mean over the tokens, classifier."""
    patches = PatchEmbedding(in_channels, features, patch_size, image_size)
    blocks = [make(tokens=patches.tokens, drop_path=rate) for rate in rates]
    parts: dict[str, Block] = {
        "stem": patches,
        "blocks": Sequential(*blocks),
        "norm": LayerNorm(features, EPS),
        "pool": MeanToken(),
    }
    if num_classes:
        parts["head"] = Linear(features, num_classes, weight_init=Constant(0.0), bias_init=Constant(0.0))
    return Sequential(**parts)


def mlp_mixer(
    *,
    image_size: Sizes = 224,
    patch_size: Sizes = 16,
    in_channels: int = 3,
    num_classes: int = 1000,
    features: int = 768,
    depth: int = 12,
    token_hidden: int | None = None,
    channel_hidden: int | None = None,
    drop_path_rate: float = 0.0,
) -> Block:
    """Return MLP-Mixer, by default B/16: (batch, in_channels, height, width) → (batch, num_classes).

    Leaves: `stem.proj`, `blocks.0.tokens.branch`, `blocks.0.channels.branch`, …, `norm`, `head`, which starts at 0.
    59,880,472 parameters by default.

    Args:
        image_size: height and width of the images, one number for both.
        patch_size: height and width of the patches.
        in_channels: channels of the images.
        num_classes: outputs; 0 for no head.
        features: size of a token.
        depth: how many blocks.
        token_hidden: width of the MLPs over tokens; None for features / 2.
        channel_hidden: width of the MLPs over features; None for 4 · features.
        drop_path_rate: of every block's branches.

    Raises:
        ArgumentError: no block, or patches that do not tile the image.

    Source: Tolstikhin et al. 2021 (2105.01601), section 2 and table 1.

    Example:
        >>> mlp_mixer(image_size=8, patch_size=4, features=8, depth=2, num_classes=5).out_shape((2, 3, 8, 8))
        (2, 5)
    """
    check_depth(depth)
    make = partial(
        mixer_block,
        features,
        token_hidden=features // 2 if token_hidden is None else token_hidden,
        channel_hidden=4 * features if channel_hidden is None else channel_hidden,
    )
    return _network(make, image_size, patch_size, in_channels, num_classes, features, [drop_path_rate] * depth)


def gmlp(
    *,
    image_size: Sizes = 224,
    patch_size: Sizes = 16,
    in_channels: int = 3,
    num_classes: int = 1000,
    features: int = 256,
    depth: int = 30,
    hidden: int | None = None,
    drop_path_rate: float = 0.0,
) -> Block:
    """Return gMLP, by default the small one: (batch, in_channels, height, width) → (batch, num_classes).

    Leaves: `stem.proj`, `blocks.0.branch`, …, `norm`, `head`, which starts at 0. 19,422,656 parameters by default.

    Args:
        image_size: height and width of the images, one number for both.
        patch_size: height and width of the patches.
        in_channels: channels of the images.
        num_classes: outputs; 0 for no head.
        features: size of a token.
        depth: how many blocks.
        hidden: width before the gate, even; None for 6 · features.
        drop_path_rate: of every block's branch.

    Raises:
        ArgumentError: no block, or patches that do not tile the image.

    Source: Liu et al. 2021 (2105.08050), section 2 and table 1.

    Example:
        >>> gmlp(image_size=8, patch_size=4, features=8, depth=2, num_classes=5).out_shape((2, 3, 8, 8))
        (2, 5)
    """
    check_depth(depth)
    make = partial(gmlp_block, features, 6 * features if hidden is None else hidden)
    return _network(make, image_size, patch_size, in_channels, num_classes, features, [drop_path_rate] * depth)
