"""ConvNeXt, versions 1 and 2, in all published sizes from tiny up."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.initializers import Constant, Initializer, TruncatedNormal
from pure.layers import Activation, Conv2d, DropPath, GlobalAvgPool, LayerNorm, Linear
from pure.layers.conv import divisible
from pure.nets.convolutional.resnet import check_choice, check_stages
from pure.skips.additive.convnext import ChannelNormName, channel_norm, convnext_block

__all__ = [
    "convnext",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "convnextv2_base",
    "convnextv2_large",
    "convnextv2_small",
    "convnextv2_tiny",
]

Stem = Literal["patch", "overlap", "overlap_act", "overlap_tiered"]
Head = Literal["norm", "norm_first"]


def convnext(
    depths: tuple[int, ...] = (3, 3, 9, 3),
    widths: tuple[int, ...] = (96, 192, 384, 768),
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    patch_size: int = 4,
    kernel_size: int = 7,
    layer_scale: float | None = 1e-6,
    response_norm: bool = False,
    convolutional: bool = False,
    norm: ChannelNormName = "layer",
    stem: Stem = "patch",
    head: Head = "norm",
    head_hidden: int | None = None,
    drop_path_rate: float = 0.0,
    eps: float = 1e-6,
    weight_init: Initializer = TruncatedNormal(std=0.02),
) -> Block:
    """Return patch stem, stages of ConvNeXt blocks, mean over space, norm, classifier.

    (batch, in_channels, height, width) → (batch, num_classes).
    Names: `stem.conv`, `stem.norm`, `stages.1.downsample.norm`, `stages.1.downsample.conv`,
    `stages.0.blocks.0.branch.depthwise`, `head.norm`, `head.fc`.

    Args:
        depths: blocks of each stage.
        widths: channels of each stage.
        num_classes: outputs of the classifier.
        in_channels: channels of the image.
        patch_size: kernel and stride of the stem.
        kernel_size: of the depthwise convolutions.
        layer_scale: initial value of every γ; None for no γ.
        response_norm: the global response norm of version 2.
        convolutional: 1×1 convolutions in place of the blocks' linear maps, as in timm's small networks.
        norm: "layer", or with `convolutional` also "rms" or "simple".
        stem: "patch", or two strided 3×3 convolutions: "overlap", "overlap_act" with an activation between them,
            "overlap_tiered" the first one half as wide.
        head: "norm" (mean over space, norm, classifier) or "norm_first" (norm, mean over space, classifier).
        head_hidden: width of a gelu layer before the classifier; None for none.
        drop_path_rate: of the last block's branch, per sample; it rises linearly from 0 over all blocks.
        eps: of the norms.
        weight_init: rule for every weight; biases start at zero.

    Raises:
        ArgumentError: no stages, a stage of no blocks, different numbers of depths and widths, an unknown name, or
            a hidden layer behind a head without its norm.

    Source: Liu et al. 2022 (2201.03545), section 2; Woo et al. 2023 (2301.00808), section 3.

    Example:
        >>> convnext((1, 1), (8, 16), num_classes=5).out_shape((1, 3, 32, 32))
        (1, 5)
    """
    check_stages(depths, widths)
    check_choice("stem", stem, get_args(Stem))
    check_choice("head", head, get_args(Head))
    if head == "norm_first" and head_hidden is not None:
        raise ArgumentError(f"head='norm_first', head_hidden={head_hidden}: expected head='norm' with a hidden layer")
    zero = Constant(0.0)
    channels_norm = partial(channel_norm, norm, eps=eps)
    linear = partial(Linear, weight_init=weight_init, bias_init=zero)

    def conv(before: int, after: int, size: int, stride: int, padding: int = 0) -> Block:
        return Conv2d(before, after, size, stride, padding, weight_init=weight_init, bias_init=zero)

    rates = iter(DropPath.linear(drop_path_rate, sum(depths)))
    stages: list[Block] = []
    for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        blocks = [
            convnext_block(
                width,
                kernel_size=kernel_size,
                layer_scale=layer_scale,
                response_norm=response_norm,
                convolutional=convolutional,
                norm=norm,
                drop_path=next(rates),
                eps=eps,
                weight_init=weight_init,
            )
            for _ in range(depth)
        ]
        parts: dict[str, Block] = {}
        if index:
            before = widths[index - 1]
            parts["downsample"] = Sequential(norm=channels_norm(before), conv=conv(before, width, 2, 2))
        stages.append(Sequential(**parts, blocks=Sequential(*blocks)))
    last_norm = channels_norm(widths[0])
    if stem == "patch":
        first = Sequential(conv=conv(in_channels, widths[0], patch_size, patch_size), norm=last_norm)
    else:
        middle = divisible(widths[0] // 2) if stem == "overlap_tiered" else widths[0]
        between: list[Block] = [Activation("gelu")] if stem == "overlap_act" else []
        first = Sequential(conv(in_channels, middle, 3, 2, 1), *between, conv(middle, widths[0], 3, 2, 1), last_norm)
    body = {"stem": first, "stages": Sequential(*stages)}
    pool = GlobalAvgPool()
    if head == "norm_first":
        norm_pre = channels_norm(widths[-1])
        return Sequential(**body, norm_pre=norm_pre, head=Sequential(pool=pool, fc=linear(widths[-1], num_classes)))
    last = LayerNorm(widths[-1], eps=eps) if norm == "layer" else channels_norm(widths[-1])
    hidden: dict[str, Block] = {}
    if head_hidden is not None:
        hidden = {"pre_logits": linear(widths[-1], head_hidden), "act": Activation("gelu")}
    classifier = linear(head_hidden or widths[-1], num_classes)
    return Sequential(**body, head=Sequential(pool=pool, norm=last, **hidden, fc=classifier))


def _version2(depths: tuple[int, ...], widths: tuple[int, ...], options: dict[str, Any]) -> Block:
    return convnext(depths, widths, **{"layer_scale": None, "response_norm": True, **options})


def convnext_tiny(**options: Any) -> Block:
    """Return ConvNeXt-T: 28,589,128 parameters; options as for `convnext`."""
    return convnext((3, 3, 9, 3), (96, 192, 384, 768), **options)


def convnext_small(**options: Any) -> Block:
    """Return ConvNeXt-S: 50,223,688 parameters; options as for `convnext`."""
    return convnext((3, 3, 27, 3), (96, 192, 384, 768), **options)


def convnext_base(**options: Any) -> Block:
    """Return ConvNeXt-B: 88,591,464 parameters; options as for `convnext`."""
    return convnext((3, 3, 27, 3), (128, 256, 512, 1024), **options)


def convnext_large(**options: Any) -> Block:
    """Return ConvNeXt-L: 197,767,336 parameters; options as for `convnext`."""
    return convnext((3, 3, 27, 3), (192, 384, 768, 1536), **options)


def convnextv2_tiny(**options: Any) -> Block:
    """Return ConvNeXt V2-T: 28,635,496 parameters; options as for `convnext`."""
    return _version2((3, 3, 9, 3), (96, 192, 384, 768), options)


def convnextv2_small(**options: Any) -> Block:
    """Return ConvNeXt V2-S: 50,318,440 parameters; options as for `convnext`."""
    return _version2((3, 3, 27, 3), (96, 192, 384, 768), options)


def convnextv2_base(**options: Any) -> Block:
    """Return ConvNeXt V2-B: 88,717,800 parameters; options as for `convnext`."""
    return _version2((3, 3, 27, 3), (128, 256, 512, 1024), options)


def convnextv2_large(**options: Any) -> Block:
    """Return ConvNeXt V2-L: 197,956,840 parameters; options as for `convnext`."""
    return _version2((3, 3, 27, 3), (192, 384, 768, 1536), options)
