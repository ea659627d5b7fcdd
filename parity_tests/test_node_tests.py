"""The onnx package's own models through `load`: right, or refused by a typed error, and nothing else."""

from __future__ import annotations

import collections

import pytest

from parity_tests import node_tests
from parity_tests.node_tests import DEVIATIONS, Outcome


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("models")
    return {one.name: one for one in (node_tests.outcome(case, folder) for case in node_tests.cases())}


def test_every_model_is_right_or_refused_by_a_typed_error(outcomes: dict[str, Outcome]) -> None:
    counts = collections.Counter(one.word for one in outcomes.values())
    bad = [one for one in outcomes.values() if one.word in ("wrong", "untyped")]
    assert not bad, bad
    assert counts["right"] >= 1500, "what is refused today may become right, but not the other way"


def test_the_known_deviations_are_all(outcomes: dict[str, Outcome]) -> None:
    assert {name for name, one in outcomes.items() if one.word == "deviation"} <= set(DEVIATIONS)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=f"ONNX Runtime {reason}"))
        for name, reason in DEVIATIONS.items()
    ],
)
def test_onnxruntime_gives_the_stored_outputs(name: str, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[name].word == "right", outcomes[name].detail


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("test_equal_string", "right"),
        ("test_string_split_basic", "right"),
        ("test_split_to_sequence_2", "right"),
        ("test_sequence_insert_at_back", "right"),
        ("test_identity_opt", "right"),
        ("test_loop16_seq_none", "right"),
        ("test_castlike_FLOAT_to_FLOAT8E4M3FN", "right"),
        ("test_castlike_FLOAT_to_INT4", "right"),
        ("test_attention_4d_causal_bf16", "typed error"),
        ("test_adam", "typed error"),
    ],
)
def test_text_sequences_optionals_and_small_elements(name: str, word: str, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[name].word == word, outcomes[name].detail
