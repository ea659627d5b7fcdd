"""DenseNets for large images, with torchvision's names, and the paper's for 32×32 images."""

from __future__ import annotations

from functools import partial
from typing import Any

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.initializers import Constant, Initializer, KaimingNormal
from pure.layers import Activation, BatchNorm, BlurPool, Conv2d, GlobalAvgPool, Linear, MaxPool
from pure.skips.dense.dense_layers import dense_block, transition

__all__ = [
    "densenet",
    "densenet40_12",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "densenet_bc100_12",
    "densenet_cifar",
]


def densenet(
    growth: int = 32,
    blocks: tuple[int, ...] = (6, 12, 24, 16),
    stem_channels: int = 64,
    *,
    bottleneck: int | None = 4,
    compression: float = 0.5,
    drop_rate: float = 0.0,
    num_classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    deep_stem: bool = False,
    blur: bool = False,
    weight_init: Initializer = KaimingNormal(),
) -> Block:
    """Return stem, dense blocks with transitions, BN-relu, mean over space, linear classifier.

    (batch, in_channels, height, width) → (batch, num_classes).
    Names are torchvision's: `features.conv0`, `features.denseblock1.denselayer1.branch.norm1`, `features.transition1`,
    `features.norm5`, `classifier`.

    Args:
        growth: channels that each layer adds, the paper's k.
        blocks: layers of each dense block.
        stem_channels: channels of the first convolution.
        bottleneck: width of each layer's 1×1 convolution over `growth`; None for none.
        compression: θ, channels after a transition over those before; rounded down.
        drop_rate: rate of dropping each layer's new features, value by value; see `dense_layer`.
        num_classes: outputs of the classifier.
        in_channels: channels of the image.
        small_images: a 3×3 stem of stride 1 without pooling, in place of 7×7 of stride 2 and a max pool.
        deep_stem: three 3×3 convolutions, the first two of `growth` channels, in place of the 7×7 one.
        blur: stride by a binomial filter behind the max pool (Zhang 2019, 1904.11486).
        weight_init: rule for the convolutions, He's by default.

    Raises:
        ArgumentError: no blocks, a block of no layers, a compression outside (0, 1], or two stems.

    Source: Huang et al. 2016 (1608.06993), section 3 and table 1.

    Example:
        >>> densenet(4, (2, 2), 8, num_classes=5).out_shape((1, 3, 32, 32))
        (1, 5)
    """
    if not blocks or min(blocks) < 1 or not 0 < compression <= 1:
        raise ArgumentError(f"densenet blocks={blocks}, compression={compression}: expected blocks, and θ in (0, 1]")
    if small_images and (deep_stem or blur):
        raise ArgumentError("densenet small_images=True takes neither deep_stem nor blur: choose one stem")
    features = _stem(in_channels, growth, stem_channels, small_images, deep_stem, weight_init)
    if not small_images:
        features["pool0"] = Sequential(MaxPool(3, 1, 1), BlurPool(2)) if blur else MaxPool(3, 2, 1)
    width = stem_channels
    for index, depth in enumerate(blocks, start=1):
        features[f"denseblock{index}"] = dense_block(
            width, depth, growth, bottleneck, drop_rate, weight_init=weight_init
        )
        width += depth * growth
        if index < len(blocks):
            narrow = int(width * compression)
            features[f"transition{index}"] = transition(width, narrow, weight_init=weight_init)
            width = narrow
    features |= {"norm5": BatchNorm(width), "relu5": Activation("relu")}
    return Sequential(
        features=Sequential(**features),
        pool=GlobalAvgPool(),
        classifier=Linear(width, num_classes, bias_init=Constant(0.0)),
    )


def _stem(
    in_channels: int, growth: int, channels: int, small_images: bool, deep: bool, weight_init: Initializer
) -> dict[str, Block]:
    """Return the layers before the first pooling."""
    conv = partial(Conv2d, bias=False, weight_init=weight_init)
    if small_images:
        return {"conv0": conv(in_channels, channels, 3, padding=1)}
    if not deep:
        first = {"conv0": conv(in_channels, channels, 7, stride=2, padding=3)}
        return {**first, "norm0": BatchNorm(channels), "relu0": Activation("relu")}
    parts: dict[str, Block] = {}
    for index, (before, after) in enumerate(((in_channels, growth), (growth, growth), (growth, channels))):
        parts[f"conv{index}"] = conv(before, after, 3, stride=1 if index else 2, padding=1)
        parts |= {f"norm{index}": BatchNorm(after), f"relu{index}": Activation("relu")}
    return parts


def densenet_cifar(
    depth: int,
    growth: int,
    *,
    bottleneck: int | None = None,
    compression: float = 1.0,
    stem_channels: int = 16,
    **options: Any,
) -> Block:
    """Return the DenseNet for 32×32 images: a 3×3 stem and three equal blocks.

    (batch, in_channels, height, width) → (batch, num_classes); names as in `densenet`. `depth` counts every weighted
    layer.

    Args:
        depth: 3n + 4, or 6n + 4 with bottlenecks.
        growth: channels that each layer adds.
        bottleneck: see `densenet`.
        compression: see `densenet`.
        stem_channels: 16, or 2 · growth in the BC form.
        options: further ones of `densenet`, such as `num_classes` (10 here), `in_channels`, `drop_rate`.

    Raises:
        ArgumentError: a depth that is not of that form.

    Source: Huang et al. 2016 (1608.06993), section 3, "implementation details", and table 2.

    Example:
        >>> densenet_cifar(10, 4).out_shape((1, 3, 32, 32))
        (1, 10)
    """
    per_layer = 3 if bottleneck is None else 6
    layers, rest = divmod(depth - 4, per_layer)
    if rest or layers < 1:
        raise ArgumentError(f"densenet_cifar depth={depth}: expected {per_layer}n + 4 for n layers a block")
    options = {"num_classes": 10, "small_images": True, **options}
    return densenet(growth, (layers,) * 3, stem_channels, bottleneck=bottleneck, compression=compression, **options)


def densenet121(**options: Any) -> Block:
    """Return DenseNet-121: growth 32, blocks of 6, 12, 24, 16.

    7,978,856 parameters; options as for `densenet`.
    """
    return densenet(32, (6, 12, 24, 16), 64, **options)


def densenet161(**options: Any) -> Block:
    """Return DenseNet-161: growth 48, blocks of 6, 12, 36, 24.

    28,681,000 parameters; options as for `densenet`.
    """
    return densenet(48, (6, 12, 36, 24), 96, **options)


def densenet169(**options: Any) -> Block:
    """Return DenseNet-169: growth 32, blocks of 6, 12, 32, 32.

    14,149,480 parameters; options as for `densenet`.
    """
    return densenet(32, (6, 12, 32, 32), 64, **options)


def densenet201(**options: Any) -> Block:
    """Return DenseNet-201: growth 32, blocks of 6, 12, 48, 32.

    20,013,928 parameters; options as for `densenet`.
    """
    return densenet(32, (6, 12, 48, 32), 64, **options)


def densenet40_12(**options: Any) -> Block:
    """Return the paper's DenseNet (L=40, k=12) for CIFAR.

    1,019,722 parameters; options as for `densenet_cifar`.
    """
    return densenet_cifar(40, 12, **options)


def densenet_bc100_12(**options: Any) -> Block:
    """Return the paper's DenseNet-BC (L=100, k=12) for CIFAR.

    769,162 parameters; options as for `densenet_cifar`.
    """
    return densenet_cifar(100, 12, bottleneck=4, compression=0.5, stem_channels=24, **options)
