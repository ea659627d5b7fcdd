"""`theory.predict` reads a block and its initialisers, and says why where no law holds."""

import json
import math

import pytest
import torch

import pure
from parity_tests import theory_ensembles as ensembles
from pure import nets
from pure.errors import ArgumentError, UnsupportedError
from pure.flow import theory
from pure.flow.theory.initialiser_laws import drawn
from pure.initializers import (
    Constant,
    Initializer,
    KaimingNormal,
    KaimingUniform,
    Normal,
    Orthogonal,
    TruncatedNormal,
    Uniform,
    XavierNormal,
    XavierUniform,
)

SECOND = "E‖Ju‖²"
RULES: list[Initializer] = [
    Normal(0.0, 0.3),
    Uniform(-0.4, 0.4),
    KaimingUniform(),
    KaimingUniform(0.0, "fan_out", "relu"),
    KaimingNormal(),
    KaimingNormal(0.0, "fan_out", "linear"),
    XavierNormal(1.3),
    XavierUniform(0.7),
    Orthogonal(1.4),
    TruncatedNormal(0.0, 0.5, -0.6, 0.6),
    Constant(0.0),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_variance_of_every_initialiser(rule: Initializer) -> None:
    weight = rule((300, 500), torch.Generator().manual_seed(0), torch.float64, "cpu")
    assert float(weight.var()) == pytest.approx(drawn(rule, 300, 500).variance, rel=0.02)


def test_closed_forms_come_back() -> None:
    """The general reading of a block gives the laws' own formulas for the laws' own ensembles."""
    widths = [8, 12, 20, 5]
    plain = theory.predict(ensembles.plain(widths))
    assert plain[SECOND].predicted == pytest.approx(theory.plain_second_moment(widths), rel=1e-12)
    assert plain[SECOND].law == "A"
    block = theory.predict(ensembles.residual(12, 20, [0.6] * 4))
    assert block[SECOND].predicted == pytest.approx(theory.residual_second_moment(4, 0.6), rel=1e-12)
    assert block["E‖Ju‖⁴"].predicted == pytest.approx(theory.residual_fourth_moment(4, 0.6, 12, 20), rel=1e-12)
    energies = theory.path_energies([0.36] * 4)
    assert [block[f"E‖J_k u‖², k = {k}"].predicted for k in range(5)] == pytest.approx(energies, rel=1e-12)
    mix = theory.predict(ensembles.mixed(12, 20, 4, 0.75))
    assert mix[SECOND].predicted == pytest.approx(theory.mix_second_moment([0.75**0.5] * 4, [0.5] * 4), rel=1e-12)
    assert mix[SECOND].law == "I"
    wide = theory.predict(ensembles.residual(512, 512, [0.5] * 4), angle=1.0)
    assert wide["m₂/m₁² of JᵀJ"].predicted == pytest.approx(theory.residual_spectrum_ratio([0.25] * 4), rel=1e-12)
    correlation = wide["E⟨J(x)u, J(y)u⟩ / E‖Ju‖²"].predicted
    assert correlation == pytest.approx(theory.residual_correlation(1.0, [0.25] * 4), rel=1e-12)
    norm = theory.predict(ensembles.pre_normed(512, 512, 3))
    assert norm[SECOND].predicted == pytest.approx(theory.partial_jacobian(3)[0], rel=1e-9)
    deep = theory.predict(ensembles.plain([2000] * 6), angle=0.7)["E⟨J(x)u, J(y)u⟩ / E‖Ju‖²"]
    assert deep.predicted == pytest.approx(theory.plain_correlation(0.7, 5), rel=1e-12)


def test_wrappers_do_not_change_the_law() -> None:
    block = nets.residual_mlp_block(6, 9, 0.5)
    chain = theory.predict(pure.Sequential(*[block] * 3))[SECOND]
    assert chain.predicted == pytest.approx((1 + 0.25 / 18) ** 3, rel=1e-12)
    assert theory.predict(pure.Repeat(block, 3))[SECOND] == chain
    varied = theory.predict(pure.Repeat(block, 3, vary={"scale": (0.5, 1.0, 2.0)}))[SECOND]
    assert varied.predicted == pytest.approx(math.prod(1 + a**2 / 18 for a in (0.5, 1.0, 2.0)), rel=1e-12)
    assert theory.predict(nets.simple_block_with_skip(6, 9, 6))[SECOND].predicted == pytest.approx(1 + 1 / 18)
    dropped = pure.Sequential(block, pure.Tag(), block, pure.layers.Dropout(0.5), block)
    assert theory.predict(dropped)[SECOND] == chain
    he = pure.Initialize(
        pure.Sequential(block, block), {"*.fc1.weight": Normal(std=(2 / 9) ** 0.5), "*.fc2.weight": Normal(std=6**-0.5)}
    )
    assert theory.predict(he)[SECOND].predicted == pytest.approx(1.25**2, rel=1e-12)
    one = pure.Initialize(pure.Sequential(block, block), {"1.branch.fc2.weight": Constant(0.0)})
    assert theory.predict(one)[SECOND].predicted == pytest.approx(1 + 0.25 / 18, rel=1e-12)


REFUSED = {
    "a gelu branch": (nets.residual_mlp(8, 8, 2, activation="gelu"), "gelu"),
    "a relu on the stream": (ensembles.same_gates(8, 3, 0.5), "not free"),
    "resnet v1": (pure.Residual(nets.simple_block(4, 4, 4), activation="relu"), "ResNet v1"),
    "a convolution": (pure.Conv2d(3, 3, 3), "Conv2d"),
    "a constant weight": (pure.Linear(3, 3, weight_init=Constant(0.5)), "mean 0.5"),
    "a bias of one sign": (
        pure.Sequential(pure.Linear(3, 3, bias_init=Constant(1.0)), pure.Activation("relu")),
        "bias of mean 1",
    ),
    "a skewed truncation": (pure.Linear(3, 3, weight_init=TruncatedNormal(0.0, 1.0, -1.0, 2.0)), "not symmetric"),
    "a rule of one's own": (pure.Linear(3, 3, weight_init=lambda *_: torch.ones(3, 3)), "unknown to theory"),  # type: ignore[arg-type]
    "a nested skip": (pure.Residual(pure.Residual(pure.Linear(3, 3))), "skip inside a branch"),
    "a function": (pure.Function(torch.tanh), "Function"),
    "nothing": (pure.Sequential(), "no layer"),
    "a tanh highway": (pure.skips.Highway.dense(4, activation="tanh"), "tanh"),
    "rules for a repeat": (
        pure.Initialize(pure.Repeat(pure.Linear(3, 3), 2), {"weight": Normal()}),
        "Repeat inside an Initialize",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_law_is_claimed_for(name: str) -> None:
    block, reason = REFUSED[name]
    said = theory.predict(block)
    assert len(said) == 0
    assert set(said.refused) == set(theory.LAWS)
    assert reason in said.refused["A"]
    assert reason in said.table()
    checked = theory.check(block, torch.Generator().manual_seed(0), draws=4)
    assert not checked.agrees
    assert reason in checked.table()


def test_limits_are_not_given_for_narrow_or_deep_networks() -> None:
    narrow = theory.predict(ensembles.plain([64] * 6))
    assert "from width 400 on" in narrow.refused["F"]
    assert not [p for p in narrow.values() if p.kind == "limit"]
    skip = theory.predict(nets.skip_mlp(16, 16, 4, 6))
    assert SECOND not in skip, "a branch that ends in a ReLU has a limit law only"
    assert "infinite width" in skip.refused["B"]
    assert theory.predict(nets.skip_mlp(400, 400, 4, 4))[SECOND].kind == "limit"


def test_uniform_weights_have_no_exact_fourth_moment() -> None:
    assert "E‖Ju‖⁴" not in theory.predict(nets.residual_mlp(8, 8, 2))
    assert "E‖Ju‖⁴" in theory.predict(ensembles.residual(8, 8, [1.0]))


def test_results_are_plain_data() -> None:
    said = theory.predict(ensembles.residual(200, 200, [0.5] * 2))
    assert json.loads(json.dumps(said.to_dict()))["predictions"][SECOND]["predicted"] == said[SECOND].predicted
    assert SECOND in said.table()
    found = theory.check(ensembles.plain([6, 6]), torch.Generator().manual_seed(0), draws=50)
    assert json.loads(json.dumps(found.to_dict()))["comparisons"][SECOND]["verdict"] == found[SECOND].verdict
    assert 0 < found.false_alarms < 0.02


def test_ill_posed_requests() -> None:
    generator = torch.Generator()
    with pytest.raises(ArgumentError, match="expected a Block"):
        theory.predict(torch.tanh)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="0 to π"):
        theory.predict(pure.Linear(2, 2), angle=4.0)
    with pytest.raises(ArgumentError, match="positive"):
        theory.predict(pure.Linear(2, 2), mean_square=0.0)
    with pytest.raises(ArgumentError, match="at least 2"):
        theory.check(pure.Linear(2, 2), generator, draws=1)
    with pytest.raises(ArgumentError, match=r"torch\.Generator"):
        theory.check(pure.Linear(2, 2), 0)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match=r"inside a torch\.func transform"):
        torch.func.vmap(lambda x: theory.check(pure.Linear(2, 2), generator) and x)(torch.ones(2))
    with pytest.raises(ArgumentError, match="variances"):
        theory.plain_second_moment([2, 2], [1.0, 1.0])
    with pytest.raises(ArgumentError, match="expected one of"):
        theory.plain_spectrum_ratio(2, "uniform")  # type: ignore[arg-type]
