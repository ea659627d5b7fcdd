"""A stack of residual layers of two linear maps each: x + scale · fc2(σ(fc1(x)))."""

from collections.abc import Callable

import torch
from torch import nn


class ResidualMLPBlock(nn.Module):
    def __init__(
        self,
        features: int,
        hidden_features: int,
        scale: float = 1.0,
        activation: Callable[[torch.Tensor], torch.Tensor] = torch.relu,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, features)
        self.scale = scale
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.fc2(self.activation(self.fc1(x)))
        return x + out if self.scale == 1.0 else x + self.scale * out


class ResidualMLP(nn.Sequential):
    """`depth` layers one after another; leaves are named `0.fc1.weight` and so on."""

    def __init__(
        self,
        features: int,
        hidden_features: int,
        depth: int,
        scale: float = 1.0,
        activation: Callable[[torch.Tensor], torch.Tensor] = torch.relu,
    ) -> None:
        super().__init__(*(ResidualMLPBlock(features, hidden_features, scale, activation) for _ in range(depth)))
