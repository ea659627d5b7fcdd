"""The two-block ResNet of the tutorials: 3 → 64, ReLU, 64 → 128, with 1×1 convolutions as shortcuts."""

import torch
from torch import nn

from parity_tests.modules.residual_block import ResidualBlock


class TutorialResNet(nn.Module):
    def __init__(self, channels: tuple[int, int, int] = (3, 64, 128)) -> None:
        super().__init__()
        first, second, third = channels
        self.block1 = ResidualBlock(first, second, padding=1, shortcut="project")
        self.relu = nn.ReLU()
        self.block2 = ResidualBlock(second, third, padding=1, shortcut="project")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block2(self.relu(self.block1(x)))
