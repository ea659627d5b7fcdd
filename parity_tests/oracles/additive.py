"""Convolutional residual blocks against torchvision, timm and pytorchcv, or plain modules."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorchcv.models.fractalnet_cifar import FractalBlock
from pytorchcv.models.preresnet import PreResUnit
from pytorchcv.models.pyramidnet import PyrUnit
from timm.layers import BatchNormAct2d, ScaledStdConv2d, SEModule, create_act_layer, create_conv2d
from timm.models import nfnet, res2net, resnetv2
from timm.models import resnet as timm_resnet
from torch import Tensor, nn
from torchvision.models import resnet as vision

from parity_tests.oracles.masks import masked, replay
from parity_tests.oracles.oracle import Flat, Oracle


def renamed(*pairs: tuple[str, str]) -> Callable[[Flat], Flat]:
    """Return a map of flat trees by regular expressions, applied one after another."""

    def names(flat: Flat) -> Flat:
        found = {}
        for name, leaf in flat.items():
            for pattern, replacement in pairs:
                name = re.sub(pattern, replacement, name)
            found[name] = leaf
        return found

    return names


class Padded(nn.Module):
    """relu of the padded stream and the branch of a basic block."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        f = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y = torch.zeros_like(f)
        y[:, : x.shape[1]] = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + f)


class PaperBottleneck(nn.Module):
    """The bottleneck that strides in its first 1×1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 4, 1, 2, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(4, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.down = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))

    def forward(self, x: Tensor) -> Tensor:
        f = F.relu(self.bn1(self.conv1(x)))
        f = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(f)))))
        return F.relu(f + self.down(x))


class WideBlock(nn.Module):
    """Wide ResNet's block with dropout between its convolutions, by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 12, 3, 1, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(12), nn.Conv2d(12, 12, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(4, 12, 1, bias=False)
        self.mask: Any = None

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.norm1(x))
        h = F.relu(self.norm2(self.conv1(a)))
        return self.shortcut(a) + self.conv2(h * self.mask / 0.7 if self.training else h)


def wide_call(module: nn.Module, x: Any, extras: Any, noise: Any) -> Any:
    if noise is not None:
        module.mask = noise["residual"]["branch"]["dropout"]["mask"]
    return module(x)


class Mix(torch.autograd.Function):
    """α a + (1 − α) b forwards, β and 1 − β backwards."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(beta)
        return alpha * a + (1 - alpha) * b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (beta,) = ctx.saved_tensors
        return beta * grads[0], (1 - beta) * grads[0], None, None


class ShakeShakeModule(nn.Module):
    """Two branches and their mix."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(4, 4, 3, 1, 1, bias=False),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Conv2d(4, 4, 3, 1, 1, bias=False),
                nn.BatchNorm2d(4),
            )
            for _ in range(2)
        )
        self.shares: Any = None

    def forward(self, x: Tensor) -> Tensor:
        a, b = (path(x) for path in self.paths)
        return x + (Mix.apply(a, b, *self.shares) if self.training else (a + b) / 2)


def shake_call(module: nn.Module, x: Any, extras: Any, noise: Any) -> Any:
    if noise is not None:
        drawn = noise["branch"]["mix"]
        module.shares = [drawn[name].reshape(-1, 1, 1, 1) for name in ("forward", "backward")]
    return module(x)


def fractal_names(flat: Flat) -> Flat:
    """Return pytorchcv's names, which count the levels of a fractal first."""
    found = {}
    for name, leaf in flat.items():
        column, index, rest = re.fullmatch(r"column(\d)_(\d)\.(.+)", name).groups()  # type: ignore[union-attr]
        level = (int(index) + 1) * 2 ** int(column)
        found[f"blocks.block{level}.subblock{int(column) + 1}.{rest.replace('norm', 'bn')}"] = leaf
    return found


def fractal_call(module: nn.Module, x: Any, extras: Any, noise: Any) -> Any:
    """Give pytorchcv's joins the masks that the row had; it lists the columns from the last to the first."""
    masks = [] if noise is None else [part["mask"].T.flip(0) for part in noise.values()]

    def given(curr_num_columns: int, batch_size: int, **ignored: Any) -> Tensor:
        return torch.ones(1, batch_size, dtype=x.dtype) if curr_num_columns == 1 else masks.pop(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FractalBlock, "calc_drop_mask", staticmethod(given))
        return module(x, None)


class ScaledGelu(nn.Module):
    """0.7 gelu(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.7 * F.gelu(x)


def down(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Return torchvision's shortcut."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


SHORTCUT = {"shortcut.conv": "downsample.0", "shortcut.norm": "downsample.1"}
POOLED = {"shortcut.project.conv": "downsample.1", "shortcut.project.norm": "downsample.2"}
BRANCH = {"branch": "", **SHORTCUT}
PREACT = {"residual.branch": "", "branch": "", "residual.shortcut.conv": "downsample.conv"}

UNITS = (
    (r"^(?:residual\.)?(?:branch\.)?norm(\d)\.", r"body.conv\1.bn."),
    (r"^(?:residual\.)?branch\.conv(\d)\.", r"body.conv\1.conv."),
    (r"^residual\.shortcut\.conv\.", "identity_conv."),
)
PYRAMID = (*UNITS, (r"^body\.conv(?:3|4)\.bn\.", "bn."))
RES2NET = renamed(
    (r"^branch\.scales\.(\d)\.conv\.", r"convs.\1."),
    (r"^branch\.scales\.(\d)\.norm\.", r"bns.\1."),
    (r"^branch\.", ""),
    (r"^shortcut\.conv\.", "downsample.0."),
    (r"^shortcut\.norm\.", "downsample.1."),
)


def preact(in_channels: int, out_channels: int, stride: int, ratio: float, projected: bool) -> nn.Module:
    return resnetv2.PreActBottleneck(
        in_channels,
        out_channels,
        ratio,
        stride,
        conv_layer=create_conv2d,
        norm_layer=BatchNormAct2d,
        proj_layer=resnetv2.DownsampleAvg if projected else None,
    )


def norm_free(in_channels: int, out_channels: int, stride: int, **options: Any) -> nn.Module:
    name = options.pop("act", "relu")
    gamma = nfnet._nonlin_gamma[name]
    return nfnet.NormFreeBlock(
        in_channels,
        out_channels,
        stride,
        alpha=0.2,
        reg=False,
        ch_div=8,
        act_layer=lambda inplace=False: create_act_layer(name),
        conv_layer=lambda *args, **kwargs: ScaledStdConv2d(*args, gamma=gamma, eps=1e-5, **kwargs),
        **options,
    )


ORACLES = {
    "squeeze_excite": Oracle(lambda: SEModule(4, rd_channels=3)),
    "scaled_std_conv": Oracle(
        lambda: ScaledStdConv2d(4, 6, 3, 2, 1, groups=2, gamma=nfnet._nonlin_gamma["silu"], eps=1e-5)
    ),
    "scaled_activation": Oracle(ScaledGelu),
    "basic_block": Oracle(lambda: vision.BasicBlock(4, 4), BRANCH),
    "basic_block_projected": Oracle(lambda: vision.BasicBlock(4, 6, 2, down(4, 6, 2)), BRANCH),
    "basic_block_padded": Oracle(lambda: Padded(4, 8, 2), BRANCH),
    "bottleneck": Oracle(lambda: vision.Bottleneck(8, 4, 2, down(8, 16, 2)), BRANCH),
    "bottleneck_paper": Oracle(PaperBottleneck, {"branch": "", "shortcut.conv": "down.0", "shortcut.norm": "down.1"}),
    "stochastic_depth_bottleneck": Oracle(
        lambda: masked(timm_resnet.Bottleneck(8, 2, cardinality=3, base_width=64), 0.3), BRANCH, replay
    ),
    "resnext_bottleneck": Oracle(lambda: vision.Bottleneck(8, 4, 1, down(8, 16, 1), groups=4, base_width=32), BRANCH),
    "wide_bottleneck": Oracle(lambda: vision.Bottleneck(16, 4, base_width=128), BRANCH),
    "zero_gamma": Oracle(lambda: vision.Bottleneck(8, 2), BRANCH),
    "resnet_d_block": Oracle(
        lambda: timm_resnet.Bottleneck(8, 4, 2, timm_resnet.downsample_avg(8, 16, 1, 2)), {**BRANCH, **POOLED}
    ),
    "se_bottleneck": Oracle(lambda: timm_resnet.Bottleneck(8, 4, 1, down(8, 16, 1), attn_layer="se"), BRANCH),
    "preact_basic": Oracle(lambda: PreResUnit(4, 4, 1, bottleneck=False), renamed(*UNITS)),
    "preact_basic_projected": Oracle(lambda: PreResUnit(4, 6, 2, bottleneck=False), renamed(*UNITS)),
    "preact_bottleneck": Oracle(lambda: masked(preact(8, 8, 1, 1.0, False), 0.3), PREACT, replay),
    "preact_bottleneck_projected": Oracle(lambda: preact(8, 16, 2, 0.5, True), PREACT),
    "wide_block": Oracle(WideBlock, {"residual.branch": "", "residual.shortcut.conv": "shortcut"}, wide_call),
    "pyramid_block": Oracle(lambda: PyrUnit(4, 7, 2, bottleneck=False), renamed(*PYRAMID)),
    "pyramid_bottleneck": Oracle(
        lambda: PyrUnit(8, 12, 1, bottleneck=True), renamed(*UNITS, (r"^body\.conv4\.bn\.", "bn."))
    ),
    "res2net_block": Oracle(
        lambda: res2net.Bottle2neck(8, 2, base_width=64, scale=4, norm_layer=nn.BatchNorm2d), RES2NET
    ),
    "res2net_block_strided": Oracle(
        lambda: res2net.Bottle2neck(
            8, 3, 2, down(8, 12, 2), cardinality=2, base_width=48, scale=3, norm_layer=nn.BatchNorm2d
        ),
        RES2NET,
    ),
    "shake_shake_block": Oracle(
        ShakeShakeModule,
        renamed(
            (r"^branch\.", ""),
            *((rf"\.{name}\.", f".{index}.") for name, index in (("conv1", 1), ("bn1", 2), ("conv2", 4), ("bn2", 5))),
        ),
        shake_call,
    ),
    "fractal_block": Oracle(lambda: FractalBlock(4, 3, 3, 0.3, 0.0), fractal_names, fractal_call),
    "norm_free_block": Oracle(
        lambda: masked(norm_free(8, 8, 1, beta=0.9, bottle_ratio=1.0, skipinit=True), 0.3),
        {"branch": "", "branch.skip_init.weight": "skipinit_gain"},
        replay,
    ),
    "norm_free_block_projected": Oracle(lambda: norm_free(8, 16, 2, beta=0.8, bottle_ratio=0.5, act="silu"), PREACT),
}
