"""Training with torch.func.grad and pure.optim: every network gets the same steps, batches and rate."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch

import pure
from export.demo.digits import Digits, Network, accuracy, mean_loss
from export.demo.settings import Settings


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        params: The parameters after the last step.
        train_loss: Mean cross-entropy of the training digits before training and after each epoch, in nats.
        test_accuracy: Part of the held-out digits read rightly, at the same moments.
        steps: Optimiser steps.
        seconds: What the steps took, the measuring left out.
    """

    params: dict[str, Any]
    train_loss: tuple[float, ...]
    test_accuracy: tuple[float, ...]
    steps: int
    seconds: float


def initial(network: Network, settings: Settings) -> dict[str, Any]:
    """Draw the parameters from the settings' seed."""
    params, _ = network.block.init(torch.Generator().manual_seed(settings.seed))
    return params


def train(
    network: Network,
    params: dict[str, Any],
    digits: Digits,
    settings: Settings,
    tick: Callable[[], None] = lambda: None,
) -> Trained:
    """Train a copy of the parameters.

    Args:
        network: What to train.
        params: Where to start; not changed.
        digits: The data.
        settings: Epochs, batch, rate and seed.
        tick: Called after each epoch.
    """
    loss = mean_loss(network.block)
    gradient = torch.func.grad(loss)
    optimizer = pure.optim.adamw(settings.rate)
    state = optimizer.init(params)
    generator = torch.Generator().manual_seed(settings.seed)
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
            params, state = optimizer.update(grads, state, params)
            steps += 1
        seconds += time.perf_counter() - began
        measure()
        tick()
    return Trained(params, tuple(losses), tuple(rates), steps, seconds)
