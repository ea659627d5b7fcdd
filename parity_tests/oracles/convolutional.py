"""Convolutional blocks and networks against torchvision's and timm's classes, and plain modules of their formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d
from timm.layers.grn import GlobalResponseNorm
from timm.models import convnext as timm_convnext
from timm.models import cspnet, dpn, vovnet
from torch import Tensor, nn
from torchvision.models import convnext, densenet, mobilenetv2
from torchvision.ops import Permute, StochasticDepth

from parity_tests.oracles.masks import Masked
from parity_tests.oracles.oracle import Flat, Oracle
from pure import tree


def rate_of(module: nn.Module) -> float:
    """Return the rate of a layer that drops, 0 for any other."""
    if isinstance(module, Masked):
        return module.rate
    if isinstance(module, nn.Dropout | StochasticDepth):
        return module.p
    if isinstance(module, DropPath):  # timm computes them in float32; meant is the simple fraction nearby
        return float(Fraction(module.drop_prob).limit_denominator(1000))
    return 0.0


def replayed(module: nn.Module, x: Any, extras: Any, noise: Any) -> Any:
    """Run the module with the block's own masks in its dropping layers, in their order."""
    if noise:
        masks = iter(tree.leaves(noise))
        for name, layer in list(module.named_modules()):
            if rate_of(layer):
                masked = Masked(rate_of(layer))
                masked.mask = next(masks)
                module.set_submodule(name, masked)
        assert next(masks, None) is None, "the block drew more masks than the module has dropping layers"
    return module(x)


def replayed_dropout(module: nn.Module, x: Any, extras: Any, noise: Any) -> Any:
    """Run a module that calls `F.dropout`, with the block's own masks in their order."""
    masks: Iterator[Tensor] = iter(tree.leaves(noise or {}))

    def dropout(value: Tensor, p: float, training: bool) -> Tensor:
        return value * next(masks) / (1 - p) if training else value

    with mock.patch.object(F, "dropout", dropout):
        return module(x)


def beside(call: Callable[..., Any]) -> Callable[..., Any]:
    """[x, f(x)] of a module that returns only the new features."""
    return lambda module, x, extras, noise: torch.cat([x, call(module, x, extras, noise)], 1)


class LongOracle(nn.Module):
    """x, or its centre, joined with tanh(w ∗ x)."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], conv: nn.Module, inner: Any = torch.tanh) -> None:
        super().__init__()
        self.join = join
        self.conv = conv
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.inner(self.conv(x)))


class ResidualOracle(nn.Module):
    """S(x) + w ∗ x, S from submodules or a function."""

    def __init__(self, conv: nn.Module, shortcut: nn.Module | Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = conv
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.conv(x)


class PlainDenseLayer(nn.Module):
    """W relu(BN x), with dropout by a mask."""

    def __init__(self, channels: int, growth: int, rate: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1, bias=False)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(torch.relu(self.norm(x)))
        return F.dropout(y, p=self.rate, training=self.training) if self.rate else y


class PlainDenseNet(nn.Module):
    """The paper's DenseNet for small images, without bottlenecks and compression; `layers` a block."""

    def __init__(self, layers: int, growth: int, stem: int, classes: int, rate: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        self.norms = nn.ModuleList()
        self.mixes = nn.ModuleList()
        width = stem
        for index in range(3):
            self.blocks.append(nn.ModuleList(PlainDenseLayer(width + growth * i, growth, rate) for i in range(layers)))
            width += layers * growth
            self.norms.append(nn.BatchNorm2d(width))
            if index < 2:
                self.mixes.append(nn.Conv2d(width, width, 1, bias=False))
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            for layer in block:
                x = torch.cat([x, layer(x)], 1)
            x = torch.relu(self.norms[index](x))
            if index < 2:
                x = F.avg_pool2d(self.mixes[index](x), 2)
        return self.fc(x.mean((2, 3)))


def plain_densenet_names(layers: int) -> dict[str, str]:
    names = {"features.conv0": "stem", "features.norm5": "norms.2", "classifier": "fc"}
    for block in range(3):
        for layer in range(layers):
            ours = f"features.denseblock{block + 1}.denselayer{layer + 1}.branch"
            names |= {f"{ours}.norm1": f"blocks.{block}.{layer}.norm", f"{ours}.conv1": f"blocks.{block}.{layer}.conv"}
        ours = f"features.transition{block + 1}"
        names |= {f"{ours}.norm": f"norms.{block}", f"{ours}.conv": f"mixes.{block}"}
    return names


class PlainUNet(nn.Module):
    """Two or three levels with plain modules; `crop` cuts the skips to the size of what comes from below."""

    def __init__(self, dims: int, first: int, widths: tuple[int, ...], out: int, padding: int, norm: bool) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        batch = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]

        def double(before: int, after: int) -> nn.Module:
            layers: list[nn.Module] = []
            for width in (before, after):
                layers.append(conv(width, after, 3, padding=padding, bias=not norm))
                layers += [batch(after), nn.ReLU()] if norm else [nn.ReLU()]
            return nn.Sequential(*layers)

        self.pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
        self.down = nn.ModuleList(double(a, b) for a, b in zip((first, *widths), widths, strict=False))
        self.reduce = nn.ModuleList(conv(b, a, 1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(double(2 * a, a) for a in widths[:-1])
        self.head = conv(widths[0], out, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for index, encode in enumerate(self.down):
            x = encode(self.pool(x, 2) if index else x)
            skips.append(x)
        for index in reversed(range(len(self.up))):
            for axis in range(2, x.ndim):
                x = x.repeat_interleave(2, axis)
            x = self.reduce[index](x)
            skip = skips[index]
            for axis in range(2, x.ndim):
                skip = skip.narrow(axis, (skip.shape[axis] - x.shape[axis]) // 2, x.shape[axis])
            x = self.up[index](torch.cat([skip, x], 1))
        return self.head(x)


def unet_names(levels: int, norm: bool) -> dict[str, str]:
    """Return {our name: that of PlainUNet}."""
    step = 3 if norm else 2
    names = {"head": "head"}
    prefix = ""
    for level in range(levels):
        for kind, theirs in (("encode", "down"), ("decode", "up")):
            for index in range(2):
                names[f"{prefix}{kind}.conv{index + 1}"] = f"{theirs}.{level}.{step * index}"
                names[f"{prefix}{kind}.norm{index + 1}"] = f"{theirs}.{level}.{step * index + 1}"
        names[f"{prefix}skip.branch.reduce"] = f"reduce.{level}"
        prefix += "skip.branch.level."
    return names


def libraries(rules: list[tuple[str, str]]) -> Callable[[Flat], Flat]:
    """Return the map of a whole flat tree by replacements in order, as a library's names differ from ours."""

    def rename(flat: Flat) -> Flat:
        renamed = {}
        for name, leaf in flat.items():
            for ours, theirs in rules:
                name = name.replace(ours, theirs)
            renamed[name] = leaf
        return renamed

    return rename


def torchvision_names(flat: Flat) -> Flat:
    """Return the leaves of a ConvNeXt block or network under torchvision's names."""
    parts = {"depthwise": "block.0", "norm": "block.2", "fc1": "block.3", "fc2": "block.5"}
    renamed = {}
    for name, leaf in flat.items():
        words = name.split(".")
        if "branch" in words:
            at = words.index("branch")
            before = f"features.{2 * int(words[1]) + 1}.{words[3]}." if at else ""
            if words[at + 1] == "scale":
                renamed[before + "layer_scale"] = leaf.reshape(-1, 1, 1)
            else:
                renamed[f"{before}{parts[words[at + 1]]}.{words[-1]}"] = leaf
        elif words[0] == "stages":
            renamed[f"features.{2 * int(words[1])}.{['norm', 'conv'].index(words[3])}.{words[-1]}"] = leaf
        elif words[0] == "stem":
            renamed[f"features.0.{['conv', 'norm'].index(words[1])}.{words[-1]}"] = leaf
        else:
            renamed[f"classifier.{ {'norm': 0, 'fc': 2}[words[1]] }.{words[-1]}"] = leaf
    return renamed


TIMM_CONVNEXT = libraries(
    [
        ("branch.", ""),
        ("depthwise", "conv_dw"),
        ("fc1", "mlp.fc1"),
        ("fc2", "mlp.fc2"),
        ("grn", "mlp.grn"),
        ("scale.weight", "gamma"),
        ("stem.conv", "stem.0"),
        ("stem.norm", "stem.1"),
        ("downsample.norm", "downsample.0"),
        ("downsample.conv", "downsample.1"),
    ]
)
MOBILENET = libraries([(".branch.", ".conv."), ("branch.", "conv."), (".conv.weight", ".0.weight"), (".norm.", ".1.")])
DENSENET = libraries([("branch.", "")])
OSA = libraries([("branch.", ""), ("layers.", "conv_mid."), ("mix.", "conv_concat."), (".norm.", ".bn.")])
CSP = libraries(
    [
        (".branch.conv", ".conv"),
        ("cross.branch.blocks", "blocks"),
        ("cross.branch.transition", "conv_transition_b"),
        ("expand.", "conv_exp."),
        ("mix.", "conv_transition."),
        (".norm.", ".bn."),
    ]
)


def dpn_names(projection: str) -> Callable[[Flat], Flat]:
    return libraries(
        [
            ("branch.a", "c1x1_a"),
            ("branch.b", "c3x3_b"),
            ("branch.c", "c1x1_c"),
            ("shortcut", projection),
            (".norm.", ".bn."),
        ]
    )


def cross_stage() -> nn.Module:
    block = {"bottle_ratio": 0.5, "act_layer": nn.ReLU, "norm_layer": nn.BatchNorm2d}
    return cspnet.CrossStage(4, 8, stride=1, dilation=1, depth=2, block_ratio=0.5, block_fn=cspnet.DarkBlock, **block)


def small_convnext() -> nn.Module:
    config = convnext.CNBlockConfig
    return convnext.ConvNeXt([config(4, 8, 1), config(8, None, 2)], 0.2, 0.5, 4)


ORACLES = {
    "channel_norm": Oracle(lambda: LayerNorm2d(4)),
    "global_response_norm": Oracle(lambda: GlobalResponseNorm(4)),
    "global_response_norm_first": Oracle(lambda: GlobalResponseNorm(4, channels_last=False)),
    "move_axis": Oracle(lambda: Permute([0, 2, 3, 1])),
    "upsample": Oracle(lambda: nn.Upsample(scale_factor=2)),
    "pad_1d": Oracle(
        lambda: ResidualOracle(nn.Conv1d(4, 7, 3, 2, 1), lambda x: F.pad(x[:, :, ::2], (0, 0, 1, 2))),
        {"branch": "conv"},
    ),
    "pad_3d": Oracle(
        lambda: ResidualOracle(
            nn.Conv3d(2, 3, 3, 2, 1), lambda x: F.pad(x[:, :, ::2, ::2, ::2], (0, 0, 0, 0, 0, 0, 0, 1))
        ),
        {"branch": "conv"},
    ),
    "project_1d": Oracle(
        lambda: ResidualOracle(nn.Conv1d(4, 6, 3, 2, 1), nn.Sequential(nn.Conv1d(4, 6, 1, 2), nn.BatchNorm1d(6))),
        {"branch": "conv", "shortcut.conv": "shortcut.0", "shortcut.norm": "shortcut.1"},
    ),
    "project_3d": Oracle(
        lambda: ResidualOracle(nn.Conv3d(2, 3, 3, 1, 1), nn.Conv3d(2, 3, 1)),
        {"branch": "conv", "shortcut.conv": "shortcut"},
    ),
    "inverted_residual": Oracle(lambda: mobilenetv2.InvertedResidual(4, 4, 1, 3), MOBILENET),
    "inverted_residual_strided": Oracle(lambda: mobilenetv2.InvertedResidual(4, 6, 2, 1), MOBILENET),
    "convnext_block": Oracle(lambda: convnext.CNBlock(4, 1e-6, 0.25), torchvision_names, replayed),
    "convnextv2_block": Oracle(
        lambda: timm_convnext.ConvNeXtBlock(4, use_grn=True, ls_init_value=None, drop_path=0.25),
        TIMM_CONVNEXT,
        replayed,
    ),
    "long_skip_concat": Oracle(
        lambda: LongOracle(lambda x, g: torch.cat([x, g], 1), nn.Conv2d(4, 4, 3, padding=1)), {"branch.0": "conv"}
    ),
    "long_skip_concat_cropped": Oracle(
        lambda: LongOracle(lambda x, g: torch.cat([x[:, :, 1:-1, 1:-1], g], 1), nn.Conv2d(4, 3, 3), lambda g: g),
        {"branch": "conv"},
    ),
    "long_skip_sum": Oracle(lambda: LongOracle(torch.add, nn.Conv2d(4, 4, 3, padding=1)), {"branch.0": "conv"}),
    "long_skip_product": Oracle(lambda: LongOracle(torch.mul, nn.Conv2d(4, 4, 3, padding=1)), {"branch.0": "conv"}),
    "dense_layer": Oracle(
        lambda: PlainDenseLayer(4, 3), {"branch.norm1": "norm", "branch.conv1": "conv"}, beside(replayed)
    ),
    "dense_layer_bottleneck": Oracle(lambda: densenet._DenseLayer(4, 3, 2, 0.0), DENSENET, beside(replayed)),
    "dense_layer_dropout": Oracle(lambda: densenet._DenseLayer(4, 3, 2, 0.25), DENSENET, beside(replayed_dropout)),
    "dense_block_bc": Oracle(lambda: densenet._DenseBlock(3, 4, 2, 3, 0.0), DENSENET),
    "dense_transition": Oracle(lambda: densenet._Transition(4, 2)),
    "cross_stage_partial": Oracle(cross_stage, CSP),
    "one_shot_aggregation": Oracle(lambda: vovnet.OsaBlock(4, 3, 8, 3), OSA),
    "one_shot_aggregation_residual": Oracle(
        lambda: vovnet.OsaBlock(4, 3, 4, 2, residual=True, drop_path=DropPath(0.25)), OSA, replayed
    ),
    "dual_path": Oracle(lambda: dpn.DualPathBlock(6, 4, 4, 4, 2, 2), dpn_names("")),
    "dual_path_project": Oracle(lambda: dpn.DualPathBlock(4, 4, 4, 4, 2, 1, "down"), dpn_names("c1x1_w_s2")),
    "densenet": Oracle(lambda: densenet.DenseNet(4, (2, 2), 8, 2, 0.0, 4), DENSENET),
    "densenet_cifar": Oracle(lambda: PlainDenseNet(2, 3, 6, 4, 0.2), plain_densenet_names(2), replayed_dropout),
    "mobilenet_v2": Oracle(
        lambda: mobilenetv2.MobileNetV2(4, 0.25, [[1, 16, 1, 1], [6, 32, 2, 2]]), MOBILENET, replayed
    ),
    "convnext": Oracle(small_convnext, torchvision_names, replayed),
    "convnextv2": Oracle(
        lambda: timm_convnext.ConvNeXt(
            3,
            4,
            depths=(1, 1, 2, 1),
            dims=(4, 4, 8, 8),
            use_grn=True,
            ls_init_value=None,
            drop_path_rate=0.2,
        ),
        TIMM_CONVNEXT,
        replayed,
    ),
    "unet": Oracle(lambda: PlainUNet(2, 3, (2, 3, 4), 2, 1, False), unet_names(3, False)),
    "unet_1d": Oracle(lambda: PlainUNet(1, 2, (2, 3), 2, 0, True), unet_names(2, True)),
}
