"""Layers against the classes of PyTorch that they are named after."""

from __future__ import annotations

from typing import Any

import torch
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
    "flatten": Oracle(nn.Flatten),
    "dropout": Oracle(lambda: Masked(0.25), call=masked),
    "drop_path": Oracle(lambda: Masked(0.25), call=masked),
    "scale": Oracle(lambda: ScaleModule(6)),
}
