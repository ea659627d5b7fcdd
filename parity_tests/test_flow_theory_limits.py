"""Laws D to G hold on wide networks, limits within 5%; what does not follow them is rejected."""

import pytest
import torch

from parity_tests import theory_ensembles as ensembles
from parity_tests import theory_laws
from parity_tests.theory_laws import FLOAT32, jacobians, moments, seeded
from pure.flow import theory
from pure.flow.theory import mean_ratio


def test_correlations_follow_the_arc_cosine_angles_and_not_two_to_the_minus_depth() -> None:
    depth, width = 4, 320
    block = ensembles.plain([width] * (depth + 1))
    found = theory.check(block, seeded(1), draws=300, dtype=FLOAT32, probes=8)
    (arc,) = [c for c in found.values() if c.prediction.measure == "correlation"]
    assert arc.verdict == "agrees", found.table()
    popular = theory.Prediction("F", "2^−L", 2.0**-depth, "limit", "", "correlation")
    assert theory.compare(popular, arc.measured).verdict == "disagrees"


def test_residual_correlations_and_spectrum() -> None:
    found = theory.check(ensembles.residual(200, 200, [0.5] * 6), seeded(2), draws=100, dtype=FLOAT32, probes=8)
    assert found.agrees, found.table()
    assert {"m₂/m₁² of JᵀJ", "E⟨J(x)u, J(y)u⟩ / E‖Ju‖²"} <= set(found)


def test_blocks_that_share_their_gates_are_not_free() -> None:
    """Law D is refused by `predict`, and where it is applied all the same, the measurement rejects it."""
    width, depth = 200, 60
    block = ensembles.same_gates(width, depth, depth**-0.5)
    said = theory.predict(block)
    assert not said
    assert "not free" in said.refused["D"]
    first, second = moments(jacobians(block, width, 5, 3))
    law = theory.Prediction("D", "", theory.residual_spectrum_ratio([1 / depth] * depth), "limit", "", "ratio")
    control = theory.compare(law, mean_ratio(second, first, power=2))
    assert control.verdict == "disagrees"
    assert control.measured.low > 1.1 * law.predicted
    first, second = moments(jacobians(ensembles.residual(width, width, [depth**-0.5] * depth), width, 5, 3))
    assert theory.compare(law, mean_ratio(second, first, power=2)).verdict == "agrees"


def test_the_limit_law_of_the_residual_spectrum() -> None:
    """Quantiles of the measured spectrum, L = 32 at n = 200, follow the closed form of the limit."""
    width, depth = 200, 32
    found = jacobians(ensembles.residual(width, width, [depth**-0.5] * depth), width, 8, 4)
    logs = 2 * torch.linalg.svdvals(found.double()).log()
    at, density = theory.residual_limit_density(1.0)
    below = torch.cumulative_trapezoid(density, at)
    seen = torch.sort(logs.flatten()).values
    expected = below[(torch.searchsorted(at[1:].contiguous(), seen)).clamp_max(len(below) - 1)]
    distance = (expected - torch.linspace(0, 1, len(seen))).abs().max()
    assert distance < 0.02
    other, density = theory.residual_limit_density(1.3)
    below = torch.cumulative_trapezoid(density, other)
    wrong = below[(torch.searchsorted(other[1:].contiguous(), seen)).clamp_max(len(below) - 1)]
    assert (wrong - torch.linspace(0, 1, len(seen))).abs().max() > 0.02


@pytest.mark.parametrize("kind", ["gaussian linear", "gaussian relu", "orthogonal relu"])
def test_plain_spectra(kind: str) -> None:
    width, depth = 200, 2
    widths = [width] * (depth + 1)
    block = {
        "gaussian linear": lambda: ensembles.linear(width, depth),
        "gaussian relu": lambda: ensembles.plain(widths),
        "orthogonal relu": lambda: ensembles.plain(widths, orthogonal=True),
    }[kind]()
    first, second = moments(jacobians(block, width, 30, 5))
    found = mean_ratio(second, first, power=2)
    law = theory.Prediction("E", "", theory.plain_spectrum_ratio(depth, kind), "limit", "", "ratio")  # type: ignore[arg-type]
    assert theory.compare(law, found).verdict == "agrees", found
    for wrong in {3.0, 5.0} - {law.predicted}:
        perturbed = theory.Prediction("E", "", wrong, "limit", "", "ratio")
        assert theory.compare(perturbed, found).verdict == "disagrees"


def test_coin_toss_gates_follow_the_batch_norm_idealisation() -> None:
    found = theory_laws.coins(8, 24, 1500, 6)
    law = theory.Prediction("G", "", theory.batch_norm_correlation(8), "exact", "", "correlation")
    assert theory.compare(law, found).verdict == "agrees"
    perturbed = theory.Prediction("G", "", 1 / 8**0.5, "exact", "", "correlation")
    assert theory.compare(perturbed, found).verdict == "disagrees"
