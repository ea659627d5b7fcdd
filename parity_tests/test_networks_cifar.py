"""Residual networks for 32×32 images have the sizes of their papers, and run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from parity_tests.presets import count
from pure.block import Block
from pure.errors import ArgumentError
from pure.nets import cifar

A: dict[Callable[..., Block], int] = {
    cifar.resnet20: 269_722,
    cifar.resnet32: 464_154,
    cifar.resnet44: 658_586,
    cifar.resnet56: 853_018,
    cifar.resnet110: 1_727_962,
    cifar.resnet1202: 19_421_274,
    cifar.preresnet110: 1_727_962,
    cifar.preresnet164: 1_703_258,
    cifar.preresnet1001: 10_327_706,
    cifar.wrn28_10: 36_479_194,
}
B: dict[Callable[..., Block], int] = {
    cifar.resnet20: 272_474,
    cifar.resnet32: 466_906,
    cifar.resnet44: 661_338,
    cifar.resnet56: 855_770,
    cifar.resnet110: 1_730_714,
}


@pytest.mark.parametrize("make", A, ids=lambda make: make.__name__)
def test_network_has_its_size(make: Callable[..., Block]) -> None:
    assert count(make()) == A[make]


@pytest.mark.parametrize("make", B, ids=lambda make: make.__name__)
def test_network_with_projections_has_its_size(make: Callable[..., Block]) -> None:
    assert count(make(shortcut="B")) == B[make]


@pytest.mark.parametrize(("alpha", "size"), [(48, 1_772_706), (84, 3_904_446), (270, 28_485_477)])
def test_pyramidnet_has_its_size(alpha: int, size: int) -> None:
    assert count(cifar.cifar_pyramidnet(110, alpha)) == size


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
