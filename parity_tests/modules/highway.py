"""The highway layer: a learnt gate mixes the branch with the input (Srivastava, Greff and Schmidhuber, 2015)."""

import torch
from torch import nn


class Highway(nn.Module):
    """t · relu(fc(x)) + (1 − t) · x with t = sigmoid(gate(x)); `gate_bias` replaces the gate's initial bias."""

    def __init__(self, features: int, gate_bias: float | None = None) -> None:
        super().__init__()
        self.fc = nn.Linear(features, features)
        self.gate = nn.Linear(features, features)
        if gate_bias is not None:
            nn.init.constant_(self.gate.bias, gate_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = torch.sigmoid(self.gate(x))
        return t * torch.relu(self.fc(x)) + (1 - t) * x
