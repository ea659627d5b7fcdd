"""Compositions of two and three transforms against derivatives from values alone, for a sample of the table."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacrev, jvp

import pure
from parity_tests.derivative_compositions import PAIRS, TRIPLES, check, derivative, expected, main
from parity_tests.derivative_subjects import MODULES, Subject, moving, subjects
from pure.errors import ArgumentError

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
NAMED = {subject.name: subject for subject in subjects()}
SAMPLE = (
    "layer_norm",
    "batch_norm, training",
    "global_response_norm",
    "weight_standardised_conv",
    "attention",
    "gru_gate",
    "mixture_of_experts, training",
)
COMPOSITIONS = tuple(dict.fromkeys((*PAIRS[::3], *TRIPLES[::6], ("grad", "jvp", "jvp"), ("vjp", "jvp", "grad"))))


@pytest.mark.parametrize("name", [name for name in SAMPLE if name in NAMED])
def test_compositions_of_rows_are_right(name: str) -> None:
    outcome = check(NAMED[name], COMPOSITIONS)
    assert outcome.right, outcome.line()
    assert not outcome.typed, outcome.line()


@pytest.mark.parametrize("name", MODULES)
def test_compositions_of_module_blocks_are_right(name: str) -> None:
    outcome = check(NAMED[f"module {name}"], COMPOSITIONS)
    assert outcome.right, outcome.line()
    assert not outcome.typed, outcome.line()


@pytest.mark.parametrize("p", [1.5, 2.0, 3.0])
def test_derivatives_of_our_distances_are_right(p: float) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(rows, 3, dtype=torch.float64, generator=generator) for rows in (4, 5))
    subject = Subject(
        "cdist", lambda outputs: moving(lambda v: pure.cdist(v["a"], v["b"], p), {"a": a, "b": b}, outputs)
    )
    outcome = check(subject)
    assert outcome.right, outcome.line()
    assert not outcome.typed, outcome.line()


@pytest.mark.parametrize("p", [0.0, 1.0, 1.5, 2.0, 3.0, float("inf")])
def test_distances_and_their_gradients_are_those_of_pytorch(p: float) -> None:
    a, b = torch.randn(2, 4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(pure.cdist(a, b, p), torch.cdist(a, b, p=p))
    weights = torch.randn(2, 4, 5, dtype=torch.float64)
    expected_slopes = grad(lambda a, b: (torch.cdist(a, b, p=p) * weights).sum(), (0, 1))(a, b)
    torch.testing.assert_close(grad(lambda a, b: (pure.cdist(a, b, p) * weights).sum(), (0, 1))(a, b), expected_slopes)
    forward = jvp(lambda a: (pure.cdist(a, b, p) * weights).sum(), (a,), (torch.ones_like(a),))[1]
    torch.testing.assert_close(forward, expected_slopes[0].sum())


def test_derivatives_between_equal_rows_are_zero() -> None:
    rows = torch.randn(3, 2, dtype=torch.float64)

    def total(a: Tensor) -> Tensor:
        return pure.cdist(a, rows).diagonal().sum()

    assert torch.equal(grad(total)(rows), torch.zeros_like(rows))
    assert torch.equal(hessian(total)(rows), torch.zeros(3, 2, 3, 2, dtype=torch.float64))


def test_what_has_no_distances_is_refused() -> None:
    with pytest.raises(ArgumentError, match="expected rows"):
        pure.cdist(torch.zeros(3), torch.zeros(2, 3))
    with pytest.raises(ArgumentError, match="expected one d"):
        pure.cdist(torch.zeros(3, 2), torch.zeros(2, 3))


def test_the_check_finds_faults_and_compositions_are_told_apart() -> None:
    def wrong(x: Tensor) -> Tensor:
        return x.sin() + 0.01 * x.detach() * x * x

    x = torch.randn(3, dtype=torch.float64)
    outcome = check(Subject("wrong", lambda outputs: moving(lambda v: wrong(v["x"]), {"x": x}, outputs)), COMPOSITIONS)
    assert len(outcome.wrong) == len(COMPOSITIONS)
    assert "wrong" in outcome.line()
    partials = jacrev(jacrev(NAMED["tanh"].make(3)))(torch.zeros(2, dtype=torch.float64))
    for kinds in PAIRS:
        found = derivative(NAMED["tanh"].make(3), kinds)(torch.zeros(2, dtype=torch.float64))
        torch.testing.assert_close(found, expected(partials, kinds))


def test_the_command_prints_what_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("tanh") == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("right")
