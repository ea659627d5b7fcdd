"""The first of each kind against plain modules written from their formulas."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity_tests import modules
from parity_tests.oracles.oracle import Flat, Oracle


class Plain(nn.Module):
    """Submodules by name and a function of them, written at the row."""

    def __init__(self, forward: Any, **parts: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def mlp(names: str = "fc") -> dict[str, nn.Module]:
    return {f"{names}1": nn.Linear(6, 8), f"{names}2": nn.Linear(8, 6)}


def dynamic(module: nn.Module, x: Any, extras: Any, noise: Any) -> Any:
    return module(x) if extras["control"] > 0.5 else x


def unstacked(flat: Flat) -> Flat:
    """One leaf a depth in place of one with the depth in front."""
    return {f"{depth}.{name.removeprefix('branch.')}": leaf[depth] for name, leaf in flat.items() for depth in range(3)}


def chain(module: nn.Module, x: Tensor) -> Tensor:
    for depth in range(3):
        layer = module.get_submodule(str(depth))
        x = x + layer.fc2(torch.tanh(layer.fc1(x)))
    return x


ORACLES = {
    "project": Oracle(lambda: nn.Sequential(nn.Conv2d(4, 6, 1, 2), nn.BatchNorm2d(6)), {"conv": "0", "norm": "1"}),
    "pad": Oracle(
        lambda: Plain(
            lambda m, x: m.conv(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 2)),
            conv=nn.Conv2d(4, 6, 3, padding=1, stride=2),
        ),
        {"branch": "conv"},
    ),
    "pad_centred": Oracle(
        lambda: Plain(lambda m, x: m.conv(x) + F.pad(x, (0, 0, 0, 0, 1, 2)), conv=nn.Conv2d(4, 7, 3, padding=1)),
        {"branch": "conv"},
    ),
    "crop": Oracle(
        lambda: Plain(lambda m, x: m.conv(x) + x[:, :, 1:-1, 1:-1], conv=nn.Conv2d(4, 4, 3)), {"branch": "conv"}
    ),
    "interpolate": Oracle(
        lambda: Plain(lambda m, x: m.conv(x) + F.interpolate(x, size=(5, 5), mode="bilinear"), conv=nn.Conv2d(4, 4, 3)),
        {"branch": "conv"},
    ),
    "avg_pool_project": Oracle(
        lambda: Plain(
            lambda m, x: m.conv(x) + m.bn(m.down(F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False))),
            conv=nn.Conv2d(4, 6, 3, padding=1, stride=2),
            down=nn.Conv2d(4, 6, 1, bias=False),
            bn=nn.BatchNorm2d(6),
        ),
        {"branch": "conv", "shortcut.project.conv": "down", "shortcut.project.norm": "bn"},
    ),
    "residual_mlp_block": Oracle(
        lambda: Plain(lambda m, x: x + 0.5 * m.fc2(torch.tanh(m.fc1(x))), **mlp()), {"branch": ""}
    ),
    "residual_conv": Oracle(
        lambda: modules.BasicBlock(4, 6, stride=2),
        {
            "branch": "",
            "branch.norm1": "bn1",
            "branch.norm2": "bn2",
            "shortcut.conv": "downsample.0",
            "shortcut.norm": "downsample.1",
        },
    ),
    "highway": Oracle(lambda: modules.Highway(6), {"transform.linear": "fc"}),
    "dense_block": Oracle(
        lambda: Plain(
            lambda m, x: (lambda y: torch.cat([y, m.second(y)], 1))(torch.tanh(torch.cat([x, m.first(x)], 1))),
            first=nn.Linear(6, 3),
            second=nn.Linear(9, 3),
        ),
        {"0.branch": "first", "2.branch": "second"},
    ),
    "dynamic_select": Oracle(
        lambda: Plain(lambda m, x: m.fc2(torch.tanh(m.fc1(x))), **mlp()), {"branch": ""}, call=dynamic
    ),
    "parallel": Oracle(
        lambda: Plain(lambda m, x: m.a(x) * torch.tanh(m.b(x)), a=nn.Linear(6, 4), b=nn.Linear(6, 4)),
        {"0": "a", "1.0": "b"},
    ),
    "repeat": Oracle(lambda: Plain(chain, **{str(depth): nn.ModuleDict(mlp()) for depth in range(3)}), unstacked),
}
