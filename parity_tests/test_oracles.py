"""Every row of the catalogue equals an independent implementation in float64: outputs, gradients and new state."""

import pytest
from torch import nn

from parity_tests import catalogue_checks
from parity_tests.oracles import oracles
from parity_tests.oracles.oracle import assert_equal
from pure.catalogue import CASES, Case


def test_every_row_has_an_oracle() -> None:
    assert sorted(oracles()) == sorted(row.name for row in CASES)


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_row_equals_its_oracle_in_evaluation(row: Case) -> None:
    assert_equal(oracles()[row.name], catalogue_checks.oracle_differences(row, training=False))


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_row_equals_its_oracle_in_training(row: Case) -> None:
    assert_equal(oracles()[row.name], catalogue_checks.oracle_differences(row, training=True))


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_the_row_names_the_oracle_it_is_held_against(row: Case) -> None:
    module = oracles()[row.name].make()
    library = "parity_tests" if type(module) is nn.Sequential else type(module).__module__.partition(".")[0]
    named = row.oracle.partition(" ")[0].partition(".")[0]
    assert named == {"parity_tests": "formula"}.get(library, library)
