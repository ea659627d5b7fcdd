"""Nominal 95% intervals cover the truth in 93 to 97% of 1,000 seeds, and verdicts use them as they say."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pure.errors import ArgumentError
from pure.flow.shared.estimate import Estimate, estimate
from pure.flow.theory import Prediction, compare, mean_ratio, z_score

SEEDS, DRAWS = 1000, 200


def pair(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two dependent, skewed values a draw: means 2.5 and 2."""
    a, b, c = torch.rand((3, DRAWS), generator=generator, dtype=torch.float64).log().neg()
    return a + 1.5 * c, b + c


MEASURES: dict[str, tuple[Callable[[Tensor, Tensor], Estimate], float]] = {
    "mean": (lambda a, b: estimate(a), 2.5),
    "ratio": (mean_ratio, 1.25),
    "m2 over m1 squared": (lambda a, b: mean_ratio(a, b, power=2), 0.625),
}


@pytest.mark.parametrize("name", MEASURES)
def test_coverage(name: str) -> None:
    measure, truth = MEASURES[name]
    generator = torch.Generator().manual_seed(7)
    inside = sum(truth in measure(*pair(generator)) for _ in range(SEEDS))
    assert 0.93 <= inside / SEEDS <= 0.97
    generator.manual_seed(7)
    assert sum(1.1 * truth in measure(*pair(generator)) for _ in range(SEEDS)) / SEEDS < 0.9


def test_an_exact_law_raises_a_false_alarm_as_often_as_it_says() -> None:
    """|z| ≥ 3 in about 0.27% of seeds; Student's tails and the skew make it a little more."""
    generator = torch.Generator().manual_seed(8)
    values = torch.randn((20_000, DRAWS), generator=generator, dtype=torch.float64)
    z = values.mean(1) / (values.std(1) / math.sqrt(DRAWS))
    alarms = float((z.abs() >= 3).double().mean())
    assert 0.0015 < alarms < 0.0045
    one = estimate(values[0])
    assert z_score(one, 0.0) == pytest.approx(float(z[0]), rel=1e-12)


def verdict(kind: str, predicted: float, value: float, error: float) -> str:
    found = Estimate(value, value - 1.96 * error, value + 1.96 * error, error, 1000)
    return compare(Prediction("A", "", predicted, "exact" if kind == "exact" else "limit", "", "second"), found).verdict


def test_verdicts() -> None:
    assert verdict("exact", 1.0, 1.02, 0.01) == "agrees"
    assert verdict("exact", 1.0, 1.04, 0.01) == "disagrees"
    assert verdict("exact", 1.0, 1.3, 0.2) == "undecided", "too noisy to reject anything"
    assert verdict("exact", 1.0, math.nan, 0.01) == "disagrees"
    assert verdict("exact", 1.0, 1.0, 0.0) == "agrees"
    assert verdict("exact", 1.0, 1.001, 0.0) == "disagrees"
    assert verdict("limit", 1.0, 1.04, 0.01) == "agrees"
    assert verdict("limit", 1.0, 1.04, 0.1) == "undecided"
    assert verdict("limit", 1.0, 1.06, 0.02) == "undecided"
    assert verdict("limit", 1.0, 1.08, 0.01) == "disagrees"
    assert verdict("limit", 1.0, math.nan, 0.01) == "disagrees"


def test_ratios_without_an_answer() -> None:
    with pytest.raises(ArgumentError, match="2 or more"):
        mean_ratio(torch.ones(1), torch.ones(1))
    with pytest.raises(ArgumentError, match="mean is 0"):
        mean_ratio(torch.ones(2), torch.tensor([1.0, -1.0]))
