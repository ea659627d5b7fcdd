"""A network whose second layer is run or skipped as a control value says, with a Python `if`."""

import torch
from torch import nn


class DynamicNet(nn.Module):
    """`control` is a number or a tensor of one element: one decision for the whole batch."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, hidden_features)
        self.fc3 = nn.Linear(hidden_features, out_features)

    def forward(self, x: torch.Tensor, control: torch.Tensor | float) -> torch.Tensor:
        h = torch.relu(self.fc1(x))
        if control > 0.5:
            h = torch.relu(self.fc2(h))
        return self.fc3(h)
