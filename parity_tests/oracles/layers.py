"""Layers against the classes of PyTorch that they are named after."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import StdConv2d
from torch import nn

from parity_tests.oracles.masks import Masked
from parity_tests.oracles.oracle import Oracle


class ScaleModule(nn.Module):
    """γ ⊙ x."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class Blur(nn.Module):
    """Every second value of an image after the binomial filter, by one convolution a channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        row = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype)
        filters = (torch.outer(row, row) / 16).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), filters, stride=2, groups=x.shape[1])


class ChannelRMS(nn.Module):
    """γ x / √(E x² + ε), by einsums over the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        power = torch.einsum("nchw,nchw->nhw", x, x) / x.shape[1]
        return torch.einsum("nchw,c,nhw->nchw", x, self.weight, (power + 1e-6) ** -0.5)


def masked(module: nn.Module, x: Any, extras: Any, noise: Any) -> Any:
    if noise is not None:
        module.mask = noise["mask"]
    return module(x)


ORACLES = {
    "linear": Oracle(lambda: nn.Linear(6, 3)),
    "conv1d": Oracle(lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1)),
    "conv2d": Oracle(lambda: nn.Conv2d(4, 6, 3, dilation=2, groups=2)),
    "conv2d_same": Oracle(lambda: nn.Conv2d(4, 3, 3, padding="same")),
    "conv3d": Oracle(lambda: nn.Conv3d(2, 4, (1, 3, 3))),
    "batch_norm": Oracle(lambda: nn.BatchNorm2d(4)),
    "layer_norm": Oracle(lambda: nn.LayerNorm(6)),
    "group_norm": Oracle(lambda: nn.GroupNorm(2, 4)),
    "rms_norm": Oracle(lambda: nn.RMSNorm(6, eps=1e-6)),
    "relu": Oracle(nn.ReLU),
    "gelu": Oracle(nn.GELU),
    "silu": Oracle(nn.SiLU),
    "tanh": Oracle(nn.Tanh),
    "max_pool": Oracle(lambda: nn.MaxPool2d(3, 2, 1)),
    "avg_pool": Oracle(lambda: nn.AvgPool2d(2)),
    "global_avg_pool": Oracle(
        lambda: nn.AdaptiveAvgPool2d(1), call=lambda module, x, extras, noise: module(x).flatten(1)
    ),
    "blur_pool": Oracle(Blur),
    "zero_pad": Oracle(lambda: nn.ZeroPad2d(2)),
    "channel_rms_norm": Oracle(lambda: ChannelRMS(4)),
    "std_conv": Oracle(lambda: StdConv2d(4, 6, 3, stride=2, padding=1, bias=True)),
    "flatten": Oracle(nn.Flatten),
    "dropout": Oracle(lambda: Masked(0.25), call=masked),
    "drop_path": Oracle(lambda: Masked(0.25), call=masked),
    "scale": Oracle(lambda: ScaleModule(6)),
}
