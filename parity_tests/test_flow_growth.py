"""The audit's fitted growth where it is known by construction: plain, pre-norm and post-norm networks of 60 layers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import pure
from pure import flow
from pure.flow.auditing.growth_fit import growth
from pure.initializers import Initializer, Orthogonal
from pure.skips.scaled.norm_placement import post_norm, pre_norm

FEATURES, DEPTH = 16, 60
X_SCALE = 3.0


def stack(block: pure.Block, seed: int = 0) -> tuple[pure.Block, Any, Tensor]:
    """Return a chain of 60 such blocks, its parameters, and an input larger than what they make."""
    chain = pure.Sequential(*[block] * DEPTH)
    params, _ = chain.init(torch.Generator().manual_seed(seed), torch.float64)
    x = torch.randn(8, FEATURES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return chain, params, X_SCALE * x


def linear(gain: float) -> pure.Linear:
    rule: Initializer = Orthogonal(gain)
    return pure.Linear(FEATURES, FEATURES, bias=False, weight_init=rule)


@pytest.mark.parametrize("gain", [1.0, 1.1, 0.8])
def test_a_plain_network_of_orthogonal_maps_grows_by_its_gain(gain: float) -> None:
    chain, params, x = stack(linear(gain))
    audit = flow.audit(chain, params, x)
    assert audit.stream_growth is not None
    assert audit.gradient_growth is not None
    assert audit.stream_growth.factor == pytest.approx(gain**2, rel=1e-9)
    assert audit.gradient_growth.factor == pytest.approx(gain**2, rel=1e-9)
    assert audit.stream_growth.apart == audit.gradient_growth.apart == ()
    assert audit.stream_growth.exponential == audit.gradient_growth.exponential == (gain != 1.0)


def test_a_post_norm_stream_is_flat_and_the_step_onto_the_norm_stands_apart() -> None:
    chain, params, x = stack(post_norm(linear(1.0), pure.LayerNorm(FEATURES)))
    found = flow.audit(chain, params, x).stream_growth
    assert found is not None
    assert found.factor == pytest.approx(1.0, abs=1e-6)
    assert found.low <= found.factor <= found.high
    assert found.high - found.low < 1e-4
    assert [step for step, _ in found.apart] == [0]
    assert found.apart[0][1] == pytest.approx(-2 * math.log10(X_SCALE), abs=0.15)
    assert "apart from a factor of" in str(found)
    assert not found.exponential


def test_a_pre_norm_stream_grows_by_a_constant_and_not_exponentially() -> None:
    chain, params, x = stack(pre_norm(linear(1.0), pure.LayerNorm(FEATURES)))
    audit = flow.audit(chain, params, x)
    found = audit.stream_growth
    assert found is not None
    last = list(audit.blocks.values())[-1].stream.log10_second_moment
    expected = X_SCALE**2 + DEPTH  # each branch adds a vector of unit mean square in a direction of its own
    assert 10**last == pytest.approx(expected, rel=0.25)
    assert found.factor == pytest.approx((expected / X_SCALE**2) ** (1 / DEPTH), rel=0.02)
    assert not found.exponential


def drawn(audit: flow.Audit) -> dict[str, tuple[float, str]]:
    """Return the slope and the legend's words of the dashed line of the panels "gradient" and "signal"."""
    figure = audit.plot()
    found = {}
    for axes in figure.axes:
        for line in axes.get_lines():
            if line.get_linestyle() == "--" and str(line.get_label()).startswith("fit"):
                (x0, x1), (y0, y1) = line.get_xdata(), line.get_ydata()
                panel = axes.get_title(loc="left").partition(":")[0]
                assert line.get_label() in [text.get_text() for text in axes.get_legend().get_texts()]
                found[panel] = (float(y1 - y0) / float(x1 - x0), str(line.get_label()))
    return found


@pytest.mark.parametrize("gain", [1.0, 1.1, 0.8])
def test_the_picture_of_a_plain_network_has_its_gain_as_slope_and_in_words(gain: float) -> None:
    chain, params, x = stack(linear(gain))
    found = drawn(flow.audit(chain, params, x))
    slope, words = found["signal"]
    assert slope == pytest.approx(2 * math.log10(gain), abs=1e-9)
    assert words.startswith(f"fit {gain**2:.3g}$^L$")
    slope, words = found["gradient"]  # a norm, not a square, and it grows towards the input
    assert slope == pytest.approx(-math.log10(gain), abs=1e-9)
    assert words.startswith(f"fit {gain:.3g}$^L$")


def test_the_picture_of_a_post_norm_network_is_flat_and_says_that_a_step_stands_apart() -> None:
    chain, params, x = stack(post_norm(linear(1.0), pure.LayerNorm(FEATURES)))
    slope, words = drawn(flow.audit(chain, params, x))["signal"]
    assert slope == pytest.approx(0.0, abs=1e-6)
    assert words.startswith("fit 1$^L$")
    assert words.endswith("1 step apart")


def test_the_picture_of_a_pre_norm_network_has_the_slope_of_a_linear_growth() -> None:
    chain, params, x = stack(pre_norm(linear(1.0), pure.LayerNorm(FEATURES)))
    slope, _ = drawn(flow.audit(chain, params, x))["signal"]
    assert slope == pytest.approx(math.log10(1 + DEPTH / X_SCALE**2) / DEPTH, abs=math.log10(1.02))


def test_a_jump_in_either_direction_at_either_end_leaves_the_slope_alone() -> None:
    slope = [0.1 * at for at in range(20)]
    for logs in ([5.0, *slope], [*slope, -3.0], [2.0, *slope, 9.0]):
        found = growth(logs)
        assert found is not None
        assert found.factor == pytest.approx(10**0.1)
        assert len(found.apart) == len(logs) - 20
        assert found.log10_total == logs[-1] - logs[0]


def test_many_different_steps_are_the_growth_itself() -> None:
    power = [math.log10(1 + at) for at in range(60)]
    found = growth(power)
    assert found is not None
    assert found.apart == ()
    assert found.blocks == 59
    assert not found.exponential


def test_few_steps_are_never_taken_apart() -> None:
    found = growth([0.0, 1.0, 1.0, 1.0])
    assert found is not None
    assert found.apart == ()
    assert found.blocks == 3
