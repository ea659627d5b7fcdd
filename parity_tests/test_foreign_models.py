"""Models of transformers beside the files that torch.onnx wrote of them: right as they are, wrong with a weight off."""

from __future__ import annotations

from pathlib import Path

import pytest

import export
from parity_tests import foreign_files


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_language_model_passes_and_a_weight_that_is_off_is_found(name: str, tmp_path: Path) -> None:
    model = foreign_files.tiny(name)
    path, off = foreign_files.prepared(model, tmp_path)
    verdict = export.verify(model.make(), (), path, kwargs=model.inputs())
    assert verdict.passed, verdict.table(full=True)
    assert {"batch=1, length=12", "batch=2, length=25"} <= {row.case for row in verdict.rows}
    wrong = export.verify(model.make(), (), off, kwargs=model.inputs())
    assert wrong.status == "fail"
    assert wrong.divergence is not None
    assert wrong.divergence.node == foreign_files.reader(off, model.weight)


def test_the_command_judges_such_a_file(tmp_path: Path) -> None:
    model = foreign_files.tiny("bert")
    path, _ = foreign_files.prepared(model, tmp_path)
    verdict, _ = foreign_files.judged(model, tmp_path, path)
    assert verdict["passed"], verdict
