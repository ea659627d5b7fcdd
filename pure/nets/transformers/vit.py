"""Vision transformers under the names of torchvision (`vit_b_16`) and timm (`vit_tiny_…`)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.initializers import TruncatedNormal
from pure.layers import Activation, Dropout, DropPath, Linear, Scale
from pure.layers.activation import ActivationLike
from pure.layers.attention import Attention
from pure.layers.conv import Sizes, spread
from pure.layers.embedding import LearnedPositions
from pure.layers.patches import ClassToken, PatchEmbedding
from pure.nets.transformers.parts import check_depth
from pure.nets.transformers.vit_parts import (
    ZERO,
    AttentionPool,
    Layers,
    NormName,
    Placement,
    Pool,
    RulesName,
    TwoHeads,
    initial_rules,
    pooled,
    vit_mlp,
    vit_norm,
)
from pure.skips.scaled import norm_placement as placement_of_norms

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
    qk_norm: bool = False,
    init_values: float | None = None,
    activation: ActivationLike = "gelu",
    gated: bool = False,
    norm: NormName = "layer",
    placement: Placement = "pre",
    branches: int = 1,
    class_token: bool = True,
    distilled: bool = False,
    registers: int = 0,
    token_positions: bool = True,
    pre_norm: bool = False,
    final_norm: bool = True,
    norm_first: bool | None = None,
    pool: Pool = "token",
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
    (`fc_norm` for pool="mean"), `pre_logits`, `head`; with the options of that name `dist_token`, `reg_token`,
    `norm_pre`, `attn_pool`, `heads`.

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
        qk_norm: whether each head's queries and keys have a norm.
        init_values: start of LayerScale's gains, with "res_post" of the norms' own; None for no gains.
        activation: of the feed-forward branches.
        gated: whether these are gated units, SwiGLU with activation="silu", `hidden` counting gates and values.
        norm: "layer" or "rms".
        placement: "pre" x + f(LN x) or "res_post" x + LN(f x).
        branches: how many attentions, and then feed-forward branches, share one sum (2203.09795).
        class_token: whether there is a class token.
        distilled: whether a distillation token and a head of its own follow it (DeiT); the heads' mean is returned.
        registers: how many more learnt tokens there are (2309.16588).
        token_positions: whether class token and registers have positions as well.
        pre_norm: whether a norm stands before the blocks, the patches having no bias then (CLIP).
        final_norm: whether a norm stands behind the blocks.
        norm_first: whether that norm stands before the pooling; None for all but pool="mean".
        pool: "token" reads the class token, "mean" the mean of the patches, "attention" a learnt query's answer with
            a feed-forward layer (SigLIP).
        representation_size: width of a tanh layer before the head; None for none.
        dropout: rate in the feed-forward branches and on the output of every branch.
        attention_dropout: rate of dropping attention probabilities.
        position_dropout: rate after the positions are added.
        head_dropout: rate before the head.
        drop_path_rate: of the last block's branches; the rates rise linearly from 0.
        eps: of the norms.
        initial: the library whose initial values are used, "timm" or "torchvision".

    Raises:
        ArgumentError: patches that do not tile the image, heads that do not divide the features, unknown names,
            options that exclude each other.

    Source: Dosovitskiy et al. 2020 (2010.11929), section 3.1, equations 1 to 4.

    Example:
        >>> net = vision_transformer(image_size=8, patch_size=4, features=8, depth=1, heads=2, num_classes=5)
        >>> net.out_shape((2, 3, 8, 8))
        (2, 5)
    """
    check_depth(depth)
    if (pool == "token" or distilled) and not class_token:
        raise ArgumentError(f"class_token=False, pool={pool!r}, distilled={distilled}: expected a class token to read")
    if distilled and (pool != "token" or representation_size is not None):
        raise ArgumentError(f"distilled=True, pool={pool!r}: expected pool='token' and no representation_size")
    rules = initial_rules(initial, in_channels * math.prod(spread(patch_size, 2, "patch_size")))
    patches = PatchEmbedding(
        in_channels, features, patch_size, image_size, not pre_norm, weight_init=rules.patch, bias_init=rules.patch_bias
    )
    make_norm = partial(vit_norm, norm, eps=eps)
    head_norm = make_norm(features // heads) if qk_norm else None
    attention = Attention(
        features,
        heads,
        bias=qkv_bias,
        out_bias=True,
        fused=True,
        q_norm=head_norm,
        k_norm=head_norm,
        dropout=attention_dropout,
        weight_init=rules.attention,
        bias_init=ZERO,
        out_init=rules.attention_out,
    )
    hidden = 4 * features if hidden is None else hidden
    gain = 1.0 if init_values is None or placement == "res_post" else Scale(features, init_values)
    mlp = vit_mlp(features, hidden, activation, gated, dropout, rules)
    layers = Layers(features, attention, mlp, make_norm(features), gain, dropout, placement, branches)
    prefix = class_token + distilled + registers
    positions = patches.tokens + (prefix if token_positions else 0)
    pos_embed = {"pos_embed": LearnedPositions(positions, features, weight_init=rules.positions)}
    tokens: dict[str, Block] = {"reg_token": ClassToken(features, rules.token, registers)} if registers else {}
    tokens |= {"dist_token": ClassToken(features, rules.positions)} if distilled else {}
    tokens |= {"cls_token": ClassToken(features, rules.token)} if class_token else {}
    parts: dict[str, Block] = {"patch_embed": patches}
    parts |= {**tokens, **pos_embed} if token_positions else {**pos_embed, **tokens}
    if position_dropout:
        parts["pos_drop"] = Dropout(position_dropout)
    if pre_norm:
        parts["norm_pre"] = make_norm(features)
    parts["blocks"] = Sequential(*[layers.block(rate) for rate in DropPath.linear(drop_path_rate, depth)])
    last = make_norm(features) if final_norm else None
    if distilled:
        parts |= {"norm": last} if last is not None else {}
        return Sequential(**parts, heads=TwoHeads(features, num_classes, rules.head))

    def attended() -> Block:
        attend = AttentionPool(features, heads, weight_init=rules.attention, bias_init=ZERO, skip=prefix)
        behind = vit_mlp(features, hidden, activation, False, 0.0, rules)
        return Sequential(attend=attend, mlp=placement_of_norms.pre_norm(behind, make_norm(features)))

    first = pool != "mean" if norm_first is None else norm_first
    parts |= pooled(pool, prefix, last, first, attended)
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
