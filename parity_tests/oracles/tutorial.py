"""The small networks against their plain module versions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from parity_tests import modules
from parity_tests.oracles.oracle import Oracle


class Classifier(nn.Module):
    """A stem, three layers of one kind, and a linear head."""

    def __init__(self, kind: str, layers: list[nn.Module], last: int) -> None:
        super().__init__()
        self.kind = kind
        self.stem = nn.Linear(6, 8)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(last, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for layer in self.layers:
            if self.kind == "plain":
                x = torch.relu(layer(x))
            elif self.kind == "skip":
                x = x + torch.relu(layer(x)) / len(self.layers) ** 0.5
            elif self.kind == "dense":
                x = torch.cat([x, torch.relu(layer(x))], 1)
            else:
                x = layer(x)
        return self.head(x)


DEPTH = 4


def layers(template: str, target: str) -> dict[str, str]:
    return {template.format(i): target.format(i) for i in range(DEPTH)}


def controlled(module: nn.Module, x: Any, extras: Any, noise: Any) -> Any:
    return module(x, extras["control"])


ORACLES = {
    "simple_block": Oracle(lambda: modules.SimpleBlock(6, 8, 3)),
    "simple_block_with_skip": Oracle(lambda: modules.SimpleBlockWithSkip(6, 8, 6)),
    "dynamic_net": Oracle(lambda: modules.DynamicNet(6, 8, 3), call=controlled),
    "residual_block": Oracle(lambda: modules.ResidualBlock(4, 6, 1, "project"), {"shortcut.conv": "shortcut"}),
    "tutorial_resnet": Oracle(
        lambda: modules.TutorialResNet((4, 6, 8)),
        {"block1.shortcut.conv": "block1.shortcut", "block2.shortcut.conv": "block2.shortcut"},
    ),
    "residual_mlp": Oracle(
        lambda: modules.ResidualMLP(6, 8, 3, 0.5, torch.tanh), {f"{i}.branch": str(i) for i in range(3)}
    ),
    "plain_mlp": Oracle(
        lambda: Classifier("plain", [nn.Linear(8, 8) for _ in range(DEPTH)], 8),
        {"stem.linear": "stem", **layers("layers.{}.linear", "layers.{}")},
    ),
    "skip_mlp": Oracle(
        lambda: Classifier("skip", [nn.Linear(8, 8) for _ in range(DEPTH)], 8),
        {"stem.linear": "stem", **layers("layers.{}.branch.linear", "layers.{}")},
    ),
    "dense_mlp": Oracle(
        lambda: Classifier("dense", [nn.Linear(8 + 4 * i, 4) for i in range(3)], 20),
        {"stem.linear": "stem", **layers("layers.{}.branch.linear", "layers.{}")},
    ),
    "highway_mlp": Oracle(
        lambda: Classifier("highway", [modules.Highway(8) for _ in range(DEPTH)], 8),
        {"stem.linear": "stem", **layers("layers.{}.transform.linear", "layers.{}.fc")},
    ),
}
