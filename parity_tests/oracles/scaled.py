"""Scaled residuals against timm's LayerScale and plain modules written from the formulas."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerScale, LayerScale2d
from torch import Tensor, nn

from parity_tests.oracles.basic import Plain, mlp, unstacked
from parity_tests.oracles.oracle import Flat, Oracle


def number(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value))


def with_parts(module: nn.Module, **parts: nn.Module) -> nn.Module:
    """Return a library's module that carries the branch's layers too, so that one tree holds all parameters."""
    for name, part in parts.items():
        module.add_module(name, part)
    return module


class Scaled(Plain):
    """x + a · f(x)."""

    def __init__(self, f: Any, **parts: nn.Module) -> None:
        super().__init__(lambda m, x: x + m.a * f(m, x), **parts)
        self.a = number(0.0)


def convs(bias: bool = True) -> dict[str, nn.Module]:
    return {f"conv{i}": nn.Conv2d(4, 4, 3, padding=1, bias=bias) for i in (1, 2)}


def norms() -> dict[str, nn.Module]:
    return {"norm1": nn.BatchNorm2d(4), "norm2": nn.BatchNorm2d(4)}


def conv_branch(m: Any, x: Tensor) -> Tensor:
    return m.norm2(m.conv2(torch.relu(m.norm1(m.conv1(x)))))


def tanh_mlp(m: Any, x: Tensor) -> Tensor:
    return m.fc2(torch.tanh(m.fc1(x)))


class Fixup(nn.Module):
    """The block of the paper with its scalars as bare parameters; `downsample` sees x + bias1a."""

    def __init__(self, convs: list[nn.Module], downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.downsample = downsample
        self.scale = number(1.0)
        for index in range(1, len(convs) + 1):
            for side in "ab":
                self.register_parameter(f"bias{index}{side}", number(0.0))

    def forward(self, x: Tensor) -> Tensor:
        bias = dict(self.named_parameters())
        shortcut = x if self.downsample is None else self.downsample(x + self.bias1a)
        h, last = x, len(self.convs)
        for index, conv in enumerate(self.convs, 1):
            h = conv(h + bias[f"bias{index}a"])
            h = torch.relu(h + bias[f"bias{index}b"]) if index < last else h * self.scale + bias[f"bias{index}b"]
        return torch.relu(shortcut + h)


def fixup_names(layers: int) -> dict[str, str]:
    found = {f"conv{i}": f"convs.{i - 1}" for i in range(1, layers + 1)}
    found |= {f"bias{i}{side}.bias": f"bias{i}{side}" for i in range(1, layers + 1) for side in "ab"}
    return found | {"scale.weight": "scale", "shortcut.conv": "downsample"}


def conv2d(a: int, b: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False)


class FixupNetwork(nn.Module):
    """The whole network for small images; a stage's first block drops places and pads channels behind x + bias1a."""

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...], classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = conv2d(channels, widths[0], 3)
        self.bias1, self.bias2 = number(0.0), number(0.0)
        self.stages = nn.ModuleList()
        last = widths[0]
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = [Fixup([conv2d(width, width, 3), conv2d(width, width, 3)]) for _ in range(depth)]
            if index:
                blocks[0] = Fixup([conv2d(last, width, 3, 2), conv2d(width, width, 3)], Halved(width))
            self.stages.append(nn.Sequential(*blocks))
            last = width
        self.fc = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x) + self.bias1)
        for stage in self.stages:
            x = stage(x)
        return self.fc(x.mean((2, 3)) + self.bias2)


class Halved(nn.Module):
    """Every second place, and zeros for the new channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 1, stride=2)
        return torch.cat([x, x.new_zeros(x.shape[0], self.channels - x.shape[1], *x.shape[2:])], 1)


def network_names(depths: tuple[int, ...]) -> dict[str, str]:
    found = {"bias1.bias": "bias1", "bias2.bias": "bias2"}
    for stage, depth in enumerate(depths):
        for block in range(depth):
            names = fixup_names(2).items()
            found |= {f"layer{stage + 1}.{block}.{ours}": f"stages.{stage}.{block}.{theirs}" for ours, theirs in names}
    return found


def stack(step: Any) -> Any:
    """Return a function of three layers, each `step(index, layer, x, f(x))`."""

    def forward(m: Any, x: Tensor) -> Tensor:
        for index in range(3):
            layer = m.get_submodule(str(index))
            x = step(index, m, x, lambda z, layer=layer: tanh_mlp(layer, z))
        return x

    return forward


def layers() -> dict[str, nn.Module]:
    return {str(index): nn.ModuleDict(mlp()) for index in range(3)}


def norm_free(index: int, m: Any, x: Tensor, f: Any) -> Tensor:
    return x + 0.2 * f(x / (1 + index * 0.2**2) ** 0.5)


def variance(index: int, m: Any, x: Tensor, f: Any) -> Tensor:
    i = index + 2
    return ((i - 1) / i) ** 0.5 * x + (1 / i) ** 0.5 * f(x)


def dropped(index: int, m: Any, x: Tensor, f: Any) -> Tensor:
    rate = (0.0, 0.25, 0.5)[index]
    return x + f(x) * m.mask[:, index, None] / (1 - rate) if m.training and rate else x + f(x)


def masked(module: nn.Module, x: Any, extras: Any, noise: Any) -> Any:
    module.mask = None if noise is None else noise["branch"]["drop"]["mask"]
    return module(x)


def flat_stack(flat: Flat) -> Flat:
    return unstacked({name.replace("branch.f.", "branch."): leaf for name, leaf in flat.items()})


SCALE = {"branch.f": "", "branch.scale.weight": "a"}
ORACLES = {
    "rezero": Oracle(lambda: Scaled(tanh_mlp, **mlp()), SCALE),
    "skip_init": Oracle(
        lambda: Scaled(lambda m, x: m.conv2(torch.relu(m.conv1(torch.relu(x)))), **convs()),
        SCALE,
    ),
    "layer_scale": Oracle(
        lambda: with_parts(LayerScale(8), fc1=nn.Linear(8, 6), fc2=nn.Linear(6, 8)),
        {"branch.f": "", "branch.scale.weight": "gamma"},
        call=lambda m, x, extras, noise: x + m(m.fc2(F.gelu(m.fc1(x)))),
    ),
    "layer_scale_conv": Oracle(
        lambda: with_parts(LayerScale2d(4), **convs(bias=False), **norms()),
        {"branch.f": "", "branch.scale.weight": "gamma"},
        call=lambda m, x, extras, noise: x + m(conv_branch(m, x)),
    ),
    "zero_gamma_mlp": Oracle(
        lambda: Plain(
            lambda m, x: torch.relu(x + m.norm2(m.fc2(torch.relu(m.norm1(m.fc1(x)))))),
            fc1=nn.Linear(6, 8, bias=False),
            norm1=nn.BatchNorm1d(8),
            fc2=nn.Linear(8, 6, bias=False),
            norm2=nn.BatchNorm1d(6),
        ),
        {"branch": ""},
    ),
    "zero_gamma_conv": Oracle(
        lambda: Plain(lambda m, x: torch.relu(x + conv_branch(m, x)), **convs(bias=False), **norms()), {"branch": ""}
    ),
    "zero_last_mlp": Oracle(lambda: Plain(lambda m, x: x + m.fc2(torch.relu(m.fc1(x))), **mlp()), {"branch": ""}),
    "constant_scale": Oracle(
        lambda: Plain(lambda m, x: torch.relu(x + 0.1 * conv_branch(m, x)), **convs(bias=False), **norms()),
        {"branch": ""},
    ),
    "norm_free": Oracle(lambda: Plain(stack(norm_free), **layers()), unstacked),
    "variance_by_depth": Oracle(lambda: Plain(stack(variance), **layers()), unstacked),
    "fixup_basic": Oracle(lambda: Fixup([conv2d(4, 4, 3), conv2d(4, 4, 3)]), fixup_names(2)),
    "fixup_basic_project": Oracle(
        lambda: Fixup([conv2d(4, 6, 3, 2), conv2d(6, 6, 3)], conv2d(4, 6, 1, 2)), fixup_names(2)
    ),
    "fixup_bottleneck": Oracle(
        lambda: Fixup([conv2d(4, 3, 1), conv2d(3, 3, 3, 2), conv2d(3, 6, 1)], conv2d(4, 6, 1, 2)), fixup_names(3)
    ),
    "stochastic_depth": Oracle(
        lambda: Plain(
            lambda m, x: x + conv_branch(m, x) * (m.mask[:, None, None, None] / 0.7 if m.training else 1.0),
            **convs(bias=False),
            **norms(),
        ),
        {"branch.f": ""},
        call=masked,
    ),
    "stochastic_depth_stack": Oracle(lambda: Plain(stack(dropped), **layers()), flat_stack, call=masked),
    "fixup_resnet": Oracle(lambda: FixupNetwork((2, 1), (3, 5), 3, 4), network_names((2, 1))),
}
