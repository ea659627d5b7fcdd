"""Every rule of `flow.audit` speaks in its case, is silent on healthy networks, and following it helps as it says."""

from __future__ import annotations

import math

import pytest
import torch

from pure import Activation, LayerNorm, Linear, Repeat, Sequential, flow, nets, tree
from pure.errors import ArgumentError
from pure.flow.auditing.growth_fit import growth
from pure.flow.auditing.remedies import edited, scaled_branch
from pure.initializers import Constant, KaimingNormal, KaimingUniform, Normal
from pure.skips import Highway, Residual, Weighted, layer_scale, post_norm, pre_norm, rezero

WIDTH = 32


def mlp(bias=None):
    second = Linear(WIDTH, WIDTH, weight_init=KaimingNormal(nonlinearity="linear"), bias_init=bias)
    return Sequential(fc1=Linear(WIDTH, WIDTH, weight_init=KaimingNormal()), act=Activation("relu"), fc2=second)


def plain(activation, depth, rule=KaimingUniform()):
    layer = Sequential(linear=Linear(WIDTH, WIDTH, bias=False, weight_init=rule), act=Activation(activation))
    return Sequential(*[layer] * depth)


def residuals(scales):
    return Sequential(*[Residual(mlp(), scale=scale) for scale in scales])


def audited(net, change=lambda params: params):
    params, state = net.init(torch.Generator().manual_seed(0))
    x = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(1))
    return flow.audit(net, change(params), x, state=state, deletions=0, stations=0)


def stream_change(found):
    return abs(found.stream_growth.log10_total)


def gradient_change(found):
    return abs(found.gradient_growth.log10_total)


def shut(found):
    return max(block.gates.shut for block in found.values())


def opened(found):
    return max(block.gates.open for block in found.values())


def distance_from_root_depth(found):
    return max(abs(math.log10(block.branch_to_skip * len(found) ** 0.5)) for block in found.values())


def largest_over_median(found):
    ratios = sorted(block.branch_to_skip for block in found.values())
    return ratios[-1] / ratios[len(ratios) // 2]


ABOUT_E = 2 * math.log10(math.e)

CASES = {
    "stream growth": (residuals([1.0] * 30), "stream growth", stream_change, ABOUT_E),
    "stream growth of a Repeat": (Repeat(Residual(mlp()), 30), "stream growth", stream_change, ABOUT_E),
    "stream growth in stages": (
        Sequential(stem=Linear(WIDTH, WIDTH), layers=residuals([1.0] * 24), head=Linear(WIDTH, 3)),
        "stream growth",
        stream_change,
        ABOUT_E,
    ),
    "loss of range": (Repeat(Residual(mlp(), scale=10.0), 30), "stream growth", stream_change, ABOUT_E),
    "small weights": (plain("relu", 20), "stream decay", stream_change, 2.0),
    "large weights": (plain("relu", 20, Normal(0.0, 0.8)), "stream growth", stream_change, 2.0),
    "leaking gates": (Repeat(Highway.dense(WIDTH, gate_bias=-1.0), 60), "vanishing gradient", gradient_change, 2.0),
    "sigmoid": (plain("sigmoid", 20), "vanishing gradient", gradient_change, 1.0),
    "post-norm": (Repeat(post_norm(mlp(Normal(0.0, 1.5)), LayerNorm(WIDTH)), 40), "post-norm", gradient_change, 1.0),
    "gates shut": (Repeat(Highway.dense(WIDTH, gate_bias=-10.0), 8), "gates shut", shut, 0.01),
    "gates open": (Repeat(Highway.dense(WIDTH, gate_bias=10.0), 4), "gates open", opened, 0.01),
    "dead": (Repeat(Residual(mlp(), scale=1e-7), 12), "dead branches", distance_from_root_depth, 0.3),
    "dominating": (
        residuals([20.0 if depth == 5 else 0.2 for depth in range(12)]),
        "dominating block",
        largest_over_median,
        2.0,
    ),
}

HEALTHY = {
    "residual": residuals([12**-0.5] * 12),
    "deep residual": Repeat(Residual(mlp(), scale=200**-0.5), 200),
    "depth to the power −1": Repeat(Residual(mlp(), scale=1e-2), 100),
    "pre-norm": Repeat(pre_norm(mlp(), LayerNorm(WIDTH)), 60),
    "He": nets.plain_mlp(WIDTH, 64, 4, 10),
    "skip_mlp": nets.skip_mlp(WIDTH, WIDTH, 4, 30),
    "highway_mlp": nets.highway_mlp(WIDTH, WIDTH, 4, 10),
    "dense_mlp": nets.dense_mlp(WIDTH, WIDTH, 4, 12),
    "ReZero": Repeat(rezero(mlp()), 20),
    "LayerScale": Repeat(layer_scale(mlp(), WIDTH), 20),
    "residual_mlp": nets.residual_mlp(WIDTH, WIDTH, 20),
    "one block": Residual(mlp()),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rule_speaks_and_its_fix_helps(case):
    net, rule, measure, promised = CASES[case]
    found = audited(net)
    advice = next(advice for advice in found.advice if advice.rule == rule)
    assert advice.appliable
    assert measure(found) > 1.5 * promised
    mended = audited(advice.apply(net))
    assert measure(mended) <= promised
    assert rule not in [advice.rule for advice in mended.advice]


@pytest.mark.parametrize("case", HEALTHY)
def test_a_healthy_network_gets_no_advice(case):
    found = audited(HEALTHY[case])
    assert found.advice == ()
    assert found.table("advice").startswith("Nothing to change")


@pytest.mark.parametrize("case", CASES)
def test_advice_has_its_numbers_in_its_text(case):
    for advice in audited(CASES[case][0]).advice:
        assert advice.text.endswith(f": {advice.fix}.")
        assert advice.numbers
        assert all(type(number) is float for number in advice.numbers.values())
        assert advice.to_dict()["evidence"] in (
            "stream_growth",
            "gradient_growth",
            "gates",
            "branch_to_skip",
        )


def test_the_scale_makes_the_growth_e():
    net, *_ = CASES["stream growth"]
    found = audited(net)
    (advice,) = found.advice
    predicted = 1 + advice.numbers["scale"] ** 2 * (found.stream_growth.factor - 1)
    assert math.isclose(predicted ** len(found), math.e, rel_tol=0.05)
    assert f"1/√L = {30**-0.5:.2g}" in advice.text


def test_an_overflow_is_named_and_its_fix_keeps_the_numbers_finite():
    net = Repeat(Residual(mlp(), scale=30.0), 60)
    found = audited(net)
    (advice,) = found.advice
    assert (advice.rule, found.stop.found, found.stop.dtype) == ("not finite", "overflow", "float32")
    assert f"block {found.stop.depth} " in advice.text
    assert len(found) == found.stop.depth < 60
    mended = audited(advice.apply(net))
    assert mended.stop is None
    assert len(mended) == 60
    assert mended.advice == ()


def test_a_parameter_that_is_nan_is_named():
    def spoil(params):
        leaf = params["branch"]["fc2"]["bias"].clone()
        leaf[7, 3] = torch.nan
        return {"branch": {**params["branch"], "fc2": {**params["branch"]["fc2"], "bias": leaf}}}

    found = audited(Repeat(Residual(mlp(), scale=0.1), 12), spoil)
    (advice,) = found.advice
    assert found.stop.found == "NaN"
    assert found.stop.depth == 7
    assert "branch.fc2.bias" in advice.text
    assert not advice.appliable
    with pytest.raises(ArgumentError, match="by hand"):
        advice.apply(Repeat(Residual(mlp(), scale=0.1), 12))


def test_branches_whose_units_are_all_off_are_dead():
    first = Linear(WIDTH, WIDTH, weight_init=KaimingNormal(), bias_init=Constant(-100.0))
    branch = Sequential(fc1=first, act=Activation("relu"), fc2=Linear(WIDTH, WIDTH, bias=False))
    net = Repeat(Residual(branch), 8)
    (advice,) = audited(net).advice
    assert advice.rule == "dead branches"
    assert not advice.appliable


class TestGrowth:
    def test_an_exponential_is_told_from_a_power(self):
        assert growth([0.1 * depth for depth in range(40)]).exponential
        assert not growth([2 * math.log10(1 + depth) for depth in range(10_000)]).exponential
        assert not growth([-2 * math.log10(10_001 - depth) for depth in range(10_000)][::-1]).exponential

    def test_the_interval_holds_the_drift_of_a_random_walk(self):
        """A nominal 95% over 200 walks: 180 hits lie more than 3 standard deviations below."""
        generator = torch.Generator().manual_seed(4)
        steps = 0.02 + 0.3 * torch.randn(200, 50, generator=generator, dtype=torch.float64)
        walks = torch.cat([torch.zeros(200, 1, dtype=torch.float64), steps.cumsum(1)], 1)
        hits = sum((found := growth(walk.tolist())).low <= 10**0.02 <= found.high for walk in walks)
        assert hits >= 180

    def test_too_few_or_not_finite_values_have_none(self):
        assert growth([0.0, 1.0]) is None
        assert growth([0.0, 1.0, -math.inf, 2.0]) is None


class TestEdited:
    def test_the_parameters_of_another_scale_stay_as_they_are(self):
        net = residuals([1.0] * 4)
        changed = edited(net, ["1", "3"], lambda block: scaled_branch(block, 0.5))
        assert [block.scale for block in changed.children().values()] == [1.0, 0.5, 1.0, 0.5]
        generator = torch.Generator().manual_seed(0)
        assert tree.names(changed.init(generator)[0]) == tree.names(net.init(generator)[0])

    def test_names_survive(self):
        net = Sequential(stem=Linear(2, 2), layers=Sequential(*[Residual(Linear(2, 2))] * 3))
        changed = edited(net, ["layers.1"], lambda block: scaled_branch(block, 3.0))
        assert changed.children()["layers"].children()["1"].scale == 3.0
        assert list(changed.children()) == ["stem", "layers"]

    def test_a_weighted_sum_behind_which_a_norm_stands(self):
        changed = scaled_branch(Sequential(add=Weighted(Linear(2, 2), carry=0.9), norm=LayerNorm(2)), 0.5)
        assert changed.children()["add"] == Weighted(Linear(2, 2), carry=0.9, scale=0.5)

    def test_one_block_of_a_repeat_cannot_change_alone(self):
        with pytest.raises(ArgumentError, match="share one description"):
            edited(Repeat(Residual(Linear(2, 2)), 3), ["1"], lambda block: scaled_branch(block, 0.5))

    def test_a_block_without_branches_has_nothing_to_scale(self):
        with pytest.raises(ArgumentError, match="no Residual or Weighted"):
            scaled_branch(Linear(2, 2), 0.5)
