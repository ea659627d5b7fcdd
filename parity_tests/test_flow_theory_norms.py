"""Pre-norm networks follow law H at every depth, and highway layers their mean-field moments."""

import math

import pytest
import torch

import pure
from parity_tests import theory_ensembles as ensembles
from parity_tests import theory_laws
from pure.flow import theory
from pure.initializers import Constant, KaimingNormal, Normal


def test_pre_norm_at_every_depth() -> None:
    rows = list(theory_laws.norms())
    assert len(rows) == 8
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]


def test_partial_jacobians_telescope() -> None:
    """(1 + a/q_0) … (1 + a/q_{L−1}) = q_L/q_0."""
    product, variances = 1.0, theory.stream_variance(5, 1.7, 0.3)
    for variance in variances[:-1]:
        product *= 1 + 0.3 / variance
    assert theory.partial_jacobian(5, 1.7, 0.3)[0] == pytest.approx(product, rel=1e-14)


def test_highway_gates_carry_transform_and_turn() -> None:
    layer = pure.skips.Highway(
        pure.Sequential(pure.Linear(256, 256, weight_init=KaimingNormal()), pure.Activation("relu")),
        pure.Linear(256, 256, weight_init=Normal(std=0.06), bias_init=Constant(-1.0)),
    )
    found = theory.check(pure.Repeat(layer, 2), torch.Generator().manual_seed(0), draws=150, dtype=torch.float32)
    assert found.agrees, found.table()
    step = theory.highway_step(0.0, 1.0, 256, gate_bias=-1.0, gate_variance=0.06**2, variance=2 / 256)
    assert min(step.carry, step.transform, step.gate) > 0.01
    without_gate = theory.Prediction("I", "", (step.carry + step.transform) ** 2, "limit", "", "second")
    assert theory.compare(without_gate, found["E‖Ju‖²"].measured).verdict == "disagrees", "the gate's derivative counts"


def test_gate_moments_by_quadrature_equal_a_fine_sum() -> None:
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    weight = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    t = torch.sigmoid(-1.5 + 1.3 * z)
    moments = theory.gate_moments(-1.5, 1.3**2)
    assert moments["T"] == pytest.approx(float(torch.trapezoid(weight * t, z)), rel=1e-10)
    assert moments["TCTC"] == pytest.approx(float(torch.trapezoid(weight * (t * (1 - t)) ** 2, z)), rel=1e-8)
    assert moments["TT"] + 2 * moments["TC"] + moments["CC"] == pytest.approx(1.0, abs=1e-13)


def test_a_post_norm_network_is_refused() -> None:
    block = pure.skips.post_norm(pure.Linear(8, 8), pure.LayerNorm(8))
    said = theory.predict(block)
    assert not said
    assert "LayerNorm" in said.refused["H"]
    assert theory.predict(ensembles.pre_normed(400, 400, 3))["E‖Ju‖²"].predicted == pytest.approx(4.0)
