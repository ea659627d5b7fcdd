"""The 1,797 handwritten digits that scikit-learn ships, and the networks that read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import pure
from export.app.report.settings import Settings
from export.errors import ArgumentError
from pure.initializers import KaimingUniform

__all__ = [
    "CLASSES",
    "MISSING",
    "PIXELS",
    "Digits",
    "Network",
    "accuracy",
    "classifier",
    "load",
    "mean_loss",
    "networks",
    "sample_loss",
]

CLASSES = 10
PIXELS = 64
MISSING = "the report needs {what}, which is not installed; pip install 'pure-export[report]'"


@dataclasses.dataclass(frozen=True)
class Digits:
    """Training and held-out digits, standardised by the training digits' mean and deviation.

    Attributes:
        train_x: (train, 64) float32.
        train_y: (train,) int64.
        test_x: (held out, 64) float32.
        test_y: (held out,) int64.
        pictures: the first few held-out digits as (8, 8) arrays of 0…16, unscaled.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    pictures: Tensor


@dataclasses.dataclass(frozen=True)
class Network:
    """One network of the comparison.

    Attributes:
        name: also the name of its files.
        title: what the page calls it.
        formula: one layer.
        block: the network; each layer tags its output as "stream".
        reference: whether it is only there to compare the others with.
    """

    name: str
    title: str
    formula: str
    block: pure.Block
    reference: bool = False


def load(settings: Settings) -> Digits:
    """Load the digits and split them by class; no digit of the held-out part is used in training or in scaling.

    Raises:
        ArgumentError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # comes with the extra `report`
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ArgumentError(MISSING.format(what="scikit-learn")) from error
    bunch = load_digits()
    train, test = train_test_split(
        range(len(bunch.target)), test_size=settings.held_out, stratify=bunch.target, random_state=settings.seed
    )
    x = torch.tensor(bunch.data, dtype=torch.float32)
    y = torch.tensor(bunch.target, dtype=torch.int64)
    mean, std = x[train].mean(0), x[train].std(0)
    scaled = (x - mean) / torch.where(std > 0, std, torch.ones(()))  # some pixels at the rim never change
    pictures = torch.tensor(bunch.images)[test[:CLASSES]]
    return Digits(scaled[train], y[train], scaled[test], y[test], pictures)


def networks(settings: Settings) -> list[Network]:
    """Return the networks, all of the same depth between the same kind of stem and head."""
    shape = (PIXELS, settings.width, CLASSES, settings.depth)
    nets = pure.nets
    return [
        Network("plain", "plain", "relu(W x + b)", nets.plain_mlp(*shape)),
        Network("residual", "residual", "x + relu(W x + b)/√L", nets.skip_mlp(*shape)),
        Network("gated", "gated", "T ⊙ relu(W x + b) + (1 − T) ⊙ x", nets.highway_mlp(*shape)),
        Network("dense", "dense", "[x, relu(W x + b)]", nets.dense_mlp(*shape, growth=settings.growth)),
        Network(
            "plain_default",
            "plain, PyTorch's init",
            "relu(W x + b)",
            nets.plain_mlp(*shape, weight_init=KaimingUniform()),
            reference=True,
        ),
    ]


def classifier(block: pure.Block) -> Callable[..., Tensor]:
    """Return the pure function that is exported: logits (batch, 10) of standardised digits (batch, 64)."""

    def logits(params: Any, x: Tensor) -> Tensor:
        return block(params, x)

    return logits


def mean_loss(block: pure.Block) -> Callable[..., Tensor]:
    """Return the mean cross-entropy of a batch."""

    def loss(params: Any, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(block(params, x), y)

    return loss


def sample_loss(block: pure.Block) -> Callable[..., Tensor]:
    """Return the cross-entropy of one digit (64,) with one label ()."""

    def loss(params: Any, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(block(params, x[None]), y[None])

    return loss


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the part of the digits whose largest logit is that of their label."""
    return int((logits.argmax(1) == labels).sum()) / len(labels)
