"""Residual networks for 32×32 images run, and refuse what makes no network; their sizes are in test_networks_sizes."""

from __future__ import annotations

import pytest
import torch

from pure.errors import ArgumentError
from pure.nets.convolutional import cifar


def test_a_hundred_and_ten_layers_run_and_end_in_finite_values() -> None:
    block = cifar.resnet110()
    params, state = block.init(torch.Generator().manual_seed(0))
    y, _ = block.apply(params, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)), state, {}, True)
    assert y.shape == (2, 10)
    assert bool(torch.isfinite(y).all())


@pytest.mark.parametrize("depth", [3, 21, 2])
def test_wrong_depths_say_which_fit(depth: int) -> None:
    with pytest.raises(ArgumentError, match="6 n"):
        cifar.cifar_resnet(depth)


def test_wrong_names_say_what_is_expected() -> None:
    with pytest.raises(ArgumentError, match="A, B"):
        cifar.cifar_resnet(20, shortcut="C")  # type: ignore[arg-type]
