"""Training with torch.func.grad and pure.optim: every network gets the same steps, batches and rate."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

import pure
from export.app.report.digits import Digits, Network, accuracy, mean_loss
from export.app.report.settings import Settings

__all__ = ["Trained", "initial", "train"]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        seed: of its initial parameters and mini-batches.
        params: the parameters after the last step.
        train_loss: mean cross-entropy of the training digits before training and after each epoch, in nats.
        test_accuracy: part of the held-out digits read rightly, at the same moments.
        steps: optimiser steps.
        seconds: what the steps took, the measuring left out.
    """

    seed: int
    params: dict[str, Any]
    train_loss: tuple[float, ...]
    test_accuracy: tuple[float, ...]
    steps: int
    seconds: float


def initial(network: Network, seed: int) -> dict[str, Any]:
    """Draw the parameters from a seed."""
    params, _ = network.block.init(torch.Generator().manual_seed(seed))
    return params


def train(network: Network, seed: int, digits: Digits, settings: Settings) -> Trained:
    """Train the network from its initial parameters.

    Args:
        network: what to train.
        seed: of the initial parameters and of the order of the mini-batches.
        digits: the data.
        settings: epochs, batch and rate.
    """
    params = initial(network, seed)
    loss = mean_loss(network.block)
    gradient = torch.func.grad(loss)
    optimizer = pure.optim.adamw(settings.rate)
    state = optimizer.init(params)
    generator = torch.Generator().manual_seed(seed)
    losses, rates, steps, seconds = [], [], 0, 0.0

    def measure() -> None:
        with torch.no_grad():
            losses.append(float(loss(params, digits.train_x, digits.train_y)))
            rates.append(accuracy(network.block(params, digits.test_x), digits.test_y))

    measure()
    for _ in range(settings.epochs):
        began = time.perf_counter()
        order = torch.randperm(len(digits.train_y), generator=generator)
        for rows in order.split(settings.batch):
            grads = gradient(params, digits.train_x[rows], digits.train_y[rows])
            params, state = optimizer.step(grads, state, params)
            steps += 1
        seconds += time.perf_counter() - began
        measure()
    return Trained(seed, params, tuple(losses), tuple(rates), steps, seconds)
