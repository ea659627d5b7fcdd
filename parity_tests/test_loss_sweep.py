"""A part of the loss sweep; `python -m parity_tests.loss_sweep` runs all of it."""

from __future__ import annotations

import pytest

from parity_tests import loss_sweep

PART = ("ctc", "gaussian_nll", "l1", "soft_margin", "multilabel_margin", "embedding_bag_max")


@pytest.mark.parametrize("operator", PART)
def test_every_transform_is_right_or_beyond_eager(operator: str) -> None:
    found = list(loss_sweep.cells((operator,)))
    assert {cell.outcome for cell in found} <= {"right", "eager"}, found
    assert all(cell.outcome == "right" for cell in found if cell.transform == "forward")


def test_the_program_prints_a_table_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert loss_sweep.main(["mse"]) == 0
    printed = capsys.readouterr().out
    assert "12 of 12 right (100.0%)" in printed


def test_a_wrong_value_is_counted_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_sweep, "RELATIVE_TOLERANCE", -1.0)
    assert {cell.outcome for cell in loss_sweep.cells(("mse",))} == {"WRONG", "eager"}
    assert loss_sweep.main(["mse"]) == 1
