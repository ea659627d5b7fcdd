"""Gradient flow of one network at one moment: by depth, and by depth and sample."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from export.app.report.digits import Digits, Network, mean_loss, sample_loss
from export.app.report.settings import Settings
from pure.flow import gradient_norms, per_sample_norms

__all__ = ["Flow", "measure"]


@dataclasses.dataclass(frozen=True)
class Flow:
    """How strongly the loss reacts to each layer.

    All norms are L2 norms over one digit's own loss, in nats per unit of the activation or of the parameters.

    Attributes:
        p10: for each layer, the 10% quantile over the digits of the norm of ∂loss/∂(layer's output).
        median: the median of the same.
        p90: the 90% quantile.
        parameters: (layers, digits), the norm of ∂loss/∂(layer's parameters).
        block_l2: for each layer, the norm by its parameters of the whole probe's mean loss.
        loss: the probe's mean loss.
    """

    p10: tuple[float, ...]
    median: tuple[float, ...]
    p90: tuple[float, ...]
    parameters: Tensor
    block_l2: tuple[float, ...]
    loss: float

    @property
    def fall(self) -> float:
        """The last layer's median activation gradient ÷ the first one's: above 1, it falls towards the input."""
        return self.median[-1] / self.median[0] if self.median[0] else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "activation_gradient_l2_p10": list(self.p10),
            "activation_gradient_l2_median": list(self.median),
            "activation_gradient_l2_p90": list(self.p90),
            "fall_from_last_to_first_layer": self.fall,
            "parameter_gradient_l2_of_mean_loss": list(self.block_l2),
            "parameter_gradient_l2_by_layer_and_digit": self.parameters.tolist(),
            "mean_loss_nats": self.loss,
        }


def measure(network: Network, params: dict[str, Any], digits: Digits, settings: Settings) -> Flow:
    """Measure on the first training digits of the settings' probe; the per-sample part on the ones that are shown."""
    x, y = digits.train_x[: settings.probe], digits.train_y[: settings.probe]
    norms = gradient_norms(mean_loss(network.block), params, x, y, kinds="stream")
    # The mean loss holds 1/batch of each digit's own loss.
    rows = torch.stack([a.sample_l2 for path, a in norms.activations.items() if path.startswith("layers.")]) * len(y)
    p10, median, p90 = torch.quantile(rows, torch.tensor([0.1, 0.5, 0.9], dtype=rows.dtype), dim=1).tolist()
    order = digits.train_y[: settings.shown].argsort(stable=True)
    single = per_sample_norms(sample_loss(network.block), params, x[order], y[order])
    layers = [f"layers.{depth}" for depth in range(settings.depth)]
    return Flow(
        p10=tuple(p10),
        median=tuple(median),
        p90=tuple(p90),
        parameters=torch.stack([single.blocks[layer] for layer in layers]),
        block_l2=tuple(norms.blocks[layer].l2 for layer in layers),
        loss=norms.loss,
    )
