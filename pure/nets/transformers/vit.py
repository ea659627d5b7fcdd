"""Vision transformers under the names of torchvision (`vit_b_16`) and timm (`vit_tiny_…`)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Final, Literal, NamedTuple, get_args

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.initializers import Constant, Initializer, KaimingUniform, Normal, TruncatedNormal, XavierUniform
from pure.layers import Activation, Dropout, DropPath, LayerNorm, Linear, Scale
from pure.layers.attention import Attention
from pure.layers.conv import Sizes, spread
from pure.layers.embedding import LearnedPositions
from pure.layers.patches import ClassToken, MeanToken, PatchEmbedding
from pure.layers.tokens import FirstToken
from pure.nets.transformers.parts import check_depth, feed_forward, transformer_block
from pure.skips.scaled.norm_placement import pre_norm

__all__ = [
    "vision_transformer",
    "vit_b_16",
    "vit_b_32",
    "vit_base_patch16_224",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
    "vit_large_patch16_224",
    "vit_small_patch16_224",
    "vit_tiny_patch16_224",
]

RulesName = Literal["timm", "torchvision"]

ZERO: Final = Constant(0.0)


class Rules(NamedTuple):
    """Initializers that a library uses for each part; None for the layer's own."""

    patch: Initializer
    patch_bias: Initializer | None
    token: Initializer
    positions: Initializer
    attention: Initializer
    attention_out: Initializer
    mlp: Initializer
    mlp_bias: Initializer
    head: Initializer


def initial_rules(name: str, patch_values: int) -> Rules:
    """Return the initial values of timm or torchvision for patches of `patch_values` numbers.

    timm: linear weights truncated normal of 0.02, biases 0. torchvision: Xavier's rule in attention and feed-forward
    layers, patches truncated normal of √(1 / patch_values), the head 0.
    """
    small = TruncatedNormal(std=0.02)
    if name == "timm":
        return Rules(KaimingUniform(), None, Normal(std=1e-6), small, small, small, small, ZERO, small)
    if name == "torchvision":
        xavier, patch = XavierUniform(), TruncatedNormal(std=math.sqrt(1 / patch_values))
        return Rules(patch, ZERO, ZERO, Normal(std=0.02), xavier, KaimingUniform(), xavier, Normal(std=1e-6), ZERO)
    raise ArgumentError(f"initial={name!r}: expected one of {', '.join(get_args(RulesName))}")


def vision_transformer(
    *,
    image_size: Sizes = 224,
    patch_size: Sizes = 16,
    in_channels: int = 3,
    num_classes: int = 1000,
    features: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int | None = None,
    qkv_bias: bool = True,
    init_values: float | None = None,
    pool: Literal["token", "mean"] = "token",
    representation_size: int | None = None,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    position_dropout: float = 0.0,
    head_dropout: float = 0.0,
    drop_path_rate: float = 0.0,
    eps: float = 1e-6,
    initial: RulesName = "timm",
) -> Block:
    """Return a vision transformer: (batch, in_channels, height, width) → (batch, num_classes).

    An image's patches become tokens after a learnt class token; learnt positions are added; pre-norm blocks follow,
    then a norm, and a linear map of the class token. 86,567,656 parameters by default.

    Leaves: `patch_embed.proj`, `cls_token`, `pos_embed`, `blocks.<i>.attention.branch`, `blocks.<i>.mlp.branch`, `norm`
    (`fc_norm` for pool="mean"), `pre_logits`, `head`.

    Args:
        image_size: height and width of the images, one number for both.
        patch_size: height and width of the patches.
        in_channels: channels of the images.
        num_classes: outputs; 0 for no head.
        features: size of a token.
        depth: how many blocks.
        heads: of the attention.
        hidden: of the feed-forward branches; None for 4 · features.
        qkv_bias: whether queries, keys and values have a bias.
        init_values: start of LayerScale's gains; None for no gains.
        pool: "token" reads the class token after the norm, "mean" the mean of the others before it.
        representation_size: width of a tanh layer before the head; None for none.
        dropout: rate in the feed-forward branches and on the output of every branch.
        attention_dropout: rate of dropping attention probabilities.
        position_dropout: rate after the positions are added.
        head_dropout: rate before the head.
        drop_path_rate: of the last block's branches; the rates rise linearly from 0.
        eps: of the norms.
        initial: the library whose initial values are used, "timm" or "torchvision".

    Raises:
        ArgumentError: patches that do not tile the image, heads that do not divide the features, unknown names.

    Source: Dosovitskiy et al. 2020 (2010.11929), section 3.1, equations 1 to 4.

    Example:
        >>> net = vision_transformer(image_size=8, patch_size=4, features=8, depth=1, heads=2, num_classes=5)
        >>> net.out_shape((2, 3, 8, 8))
        (2, 5)
    """
    if pool not in ("token", "mean"):
        raise ArgumentError(f"pool={pool!r}: expected 'token' or 'mean'")
    check_depth(depth)
    rules = initial_rules(initial, in_channels * math.prod(spread(patch_size, 2, "patch_size")))
    patches = PatchEmbedding(
        in_channels, features, patch_size, image_size, weight_init=rules.patch, bias_init=rules.patch_bias
    )
    attention = Attention(
        features,
        heads,
        bias=qkv_bias,
        out_bias=True,
        fused=True,
        dropout=attention_dropout,
        weight_init=rules.attention,
        bias_init=ZERO,
        out_init=rules.attention_out,
    )
    hidden = 4 * features if hidden is None else hidden
    mlp = feed_forward(features, hidden, dropout=dropout, weight_init=rules.mlp, bias_init=rules.mlp_bias)
    norm = LayerNorm(features, eps)
    scale = 1.0 if init_values is None else Scale(features, init_values)
    blocks = [
        transformer_block(partial(pre_norm, norm=norm, scale=scale, dropout=dropout, drop_path=rate), attention, mlp)
        for rate in DropPath.linear(drop_path_rate, depth)
    ]
    parts: dict[str, Block] = {
        "patch_embed": patches,
        "cls_token": ClassToken(features, rules.token),
        "pos_embed": LearnedPositions(patches.tokens + 1, features, weight_init=rules.positions),
    }
    if position_dropout:
        parts["pos_drop"] = Dropout(position_dropout)
    parts["blocks"] = Sequential(*blocks)
    if pool == "token":
        parts |= {"norm": norm, "pool": FirstToken()}
    else:
        parts |= {"pool": MeanToken(skip=1), "fc_norm": norm}
    width = features
    if representation_size is not None:
        rule = TruncatedNormal(std=math.sqrt(1 / features))
        parts["pre_logits"] = Linear(features, representation_size, weight_init=rule, bias_init=ZERO)
        parts["act"] = Activation("tanh")
        width = representation_size
    if head_dropout:
        parts["head_drop"] = Dropout(head_dropout)
    if num_classes:
        parts["head"] = Linear(width, num_classes, weight_init=rules.head, bias_init=ZERO)
    return Sequential(**parts)


def _torchvision(patch_size: int, features: int, depth: int, heads: int, options: dict[str, Any]) -> Block:
    """Return a network of torchvision's, whose one `dropout` also applies after the positions."""
    sizes = {"patch_size": patch_size, "features": features, "depth": depth, "heads": heads, "initial": "torchvision"}
    return vision_transformer(**{**sizes, "position_dropout": options.get("dropout", 0.0), **options})


def vit_b_16(**options: Any) -> Block:
    """Return torchvision's ViT-B/16.

    86,567,656 parameters; options as for `vision_transformer`.

    Example:
        >>> from pure.block import specification
        >>> from pure.tree import count
        >>> count(specification(vit_b_16())[0])
        86567656
    """
    return _torchvision(16, 768, 12, 12, options)


def vit_b_32(**options: Any) -> Block:
    """Return torchvision's ViT-B/32.

    88,224,232 parameters; options as for `vision_transformer`.
    """
    return _torchvision(32, 768, 12, 12, options)


def vit_l_16(**options: Any) -> Block:
    """Return torchvision's ViT-L/16.

    304,326,632 parameters; options as for `vision_transformer`.
    """
    return _torchvision(16, 1024, 24, 16, options)


def vit_l_32(**options: Any) -> Block:
    """Return torchvision's ViT-L/32.

    306,535,400 parameters; options as for `vision_transformer`.
    """
    return _torchvision(32, 1024, 24, 16, options)


def vit_h_14(**options: Any) -> Block:
    """Return torchvision's ViT-H/14.

    632,045,800 parameters; options as for `vision_transformer`.
    """
    return _torchvision(14, 1280, 32, 16, options)


def vit_tiny_patch16_224(**options: Any) -> Block:
    """Return timm's ViT-Ti/16, 5,717,416 parameters; options as for `vision_transformer`."""
    return vision_transformer(**{"features": 192, "heads": 3, **options})


def vit_small_patch16_224(**options: Any) -> Block:
    """Return timm's ViT-S/16, 22,050,664 parameters; options as for `vision_transformer`.

    Example:
        >>> from pure.block import specification
        >>> from pure.tree import count
        >>> count(specification(vit_small_patch16_224(init_values=1e-5))[0])
        22059880
    """
    return vision_transformer(**{"features": 384, "heads": 6, **options})


def vit_base_patch16_224(**options: Any) -> Block:
    """Return timm's ViT-B/16, 86,567,656 parameters; options as for `vision_transformer`."""
    return vision_transformer(**options)


def vit_large_patch16_224(**options: Any) -> Block:
    """Return timm's ViT-L/16, 304,326,632 parameters; options as for `vision_transformer`."""
    return vision_transformer(**{"features": 1024, "depth": 24, "heads": 16, **options})
