"""Laws A, B, C, E and I hold at finite width within |z| < 3 over draws, from the structure of the block alone."""

from collections.abc import Callable

import pytest
import torch

import pure
from parity_tests import theory_ensembles as ensembles
from parity_tests import theory_laws
from pure import nets
from pure.flow import theory
from pure.initializers import KaimingNormal, Normal, XavierNormal

BLOCKS: dict[str, tuple[Callable[[], pure.Block], int]] = {
    "plain": (lambda: ensembles.plain([20, 28, 36, 28]), 2000),
    "orthogonal": (lambda: ensembles.plain([8, 16, 6, 6], orthogonal=True), 2000),
    "linear": (lambda: ensembles.linear(20, 3), 1000),
    "residual": (lambda: ensembles.residual(20, 30, [0.5] * 5), 800),
    "mixed": (lambda: ensembles.mixed(20, 20, 6, 0.8), 800),
    "residual_mlp": (lambda: nets.residual_mlp(20, 30, 5, scale=1.5), 800),
    "plain_mlp": (lambda: nets.plain_mlp(12, 20, 5, 3), 2000),
    "stem, blocks and head": (
        lambda: pure.Sequential(
            pure.Linear(8, 24, weight_init=KaimingNormal()),
            pure.Activation("relu"),
            pure.Linear(24, 20, weight_init=XavierNormal()),
            ensembles.residual(20, 30, [0.7, 0.3, 1.0]),
            pure.Linear(20, 12, weight_init=Normal(std=0.3)),
        ),
        3000,
    ),
    "repeat, layer scale": (
        lambda: pure.Repeat(pure.skips.layer_scale(nets.simple_block(16, 24, 16), 16, 0.9), 4),
        800,
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_every_prediction_agrees(name: str) -> None:
    make, draws = BLOCKS[name]
    found = theory.check(make(), torch.Generator().manual_seed(0), draws=draws)
    assert len(found) >= 2
    assert found.agrees, found.table()


def test_the_mean_path_length_is_a_harmonic_number() -> None:
    assert theory_laws.mean_length().passed


@pytest.mark.parametrize("wrong", ["fewer blocks", "α for α²", "another init"])
def test_a_perturbed_law_is_rejected(wrong: str) -> None:
    block = ensembles.residual(20, 30, [0.5] * 5)
    other = {
        "fewer blocks": ensembles.residual(20, 30, [0.5] * 4),
        "α for α²": ensembles.residual(20, 30, [0.5**0.5] * 5),
        "another init": nets.residual_mlp(20, 30, 5, scale=0.5),
    }[wrong]
    found = theory.check(block, torch.Generator().manual_seed(0), draws=600, predictions=theory.predict(other))
    assert found["E‖Ju‖²"].verdict == "disagrees"
    assert not found.agrees


def test_the_fourth_moment_is_not_the_square_of_the_second() -> None:
    found = theory.check(ensembles.plain([32] * 5), torch.Generator().manual_seed(0), draws=2000)["E‖Ju‖⁴"]
    perturbed = theory.Prediction("A", "", 1.0, "exact", "", "fourth")
    assert theory.compare(perturbed, found.measured).verdict == "disagrees"
    eight = theory.Prediction("A", "", (1 + 8 / 32) ** 4, "exact", "", "fourth")
    assert theory.compare(eight, found.measured).verdict == "disagrees"
