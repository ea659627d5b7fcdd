"""Every block of the catalogue exports with a dynamic batch, and its file passes the float64 verdict at every size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import export
import pure
from export.app.reference import checked
from parity_tests import catalogue_checks
from pure.catalogue import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_file_of_a_block_passes_at_every_batch_size(case: Case, tmp_path: Path) -> None:
    verdict = catalogue_checks.verdict(case, torch.float32, tmp_path / "block.onnx")
    assert verdict.passed, verdict.table()
    assert not catalogue_checks.vacuous(case, verdict), "the verdict would pass other numbers there"
    judged = {row.case for row in verdict.rows if row.status == "pass"}
    assert {f"batch={size}" for size in (1, 2, 3, 7)} <= judged | {f"batch={case.x_shape[0]}"}


def test_overwritten_weights_behind_a_gain_that_starts_at_0_fail(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "rezero")
    block, args = catalogue_checks.example(case)
    other = pure.tree.tree_map(lambda leaf: leaf + 1 if leaf.ndim > 1 else leaf, args[0])
    path = tmp_path / "f.onnx"
    export.to_onnx(block, (other, *args[1:]), path, bake=(0,))
    assert export.verify(block, (other, *args[1:]), path, bake=(0,)).passed
    assert export.verify(block, args, path, bake=(0,)).status == "fail"
    started = case.example()[1]
    assert catalogue_checks.vacuous(case, export.verify(block, (started, *args[1:]))), "as initialised it says nothing"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_in_float16_it_passes_or_the_missing_operation_is_named(case: Case) -> None:
    outcome = catalogue_checks.outcome(case, torch.float16)
    assert outcome["status"] in ("pass", "unsupported"), outcome
    recorded = checked.load()["rows"][case.name]["float16"]
    assert outcome["status"] == recorded["status"], f"if the change is meant: {catalogue_checks.COMMAND}"


def test_the_record_of_the_checks_is_of_these_rows() -> None:
    recorded = {name: row["fingerprint"] for name, row in checked.load()["rows"].items()}
    current = {case.name: checked.fingerprint(case) for case in CASES}
    assert recorded == current, f"run {catalogue_checks.COMMAND}"


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 64])
def test_one_file_runs_at_any_batch_size_in_the_same_structure(batch: int, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "residual_mlp")
    block, (params, x, state, extras) = catalogue_checks.example(case)
    f = export.to_onnx(
        block, (params, x, state, extras), tmp_path / "f.onnx", dynamic=(None, {0: "batch"}, None, None)
    ).load()
    given = torch.randn(batch, *x.shape[1:], generator=torch.Generator().manual_seed(batch))
    out = f(params, given, state, extras)
    assert isinstance(out, torch.Tensor)
    assert out.shape[0] == batch


@pytest.mark.parametrize("bright", [True, False])
def test_a_dynamic_net_takes_its_branch_by_an_if(bright: bool, tmp_path: Path) -> None:
    from pure import nets

    block = nets.create("dynamic_net", in_features=4, hidden_features=8, out_features=3, mode="branch")
    params, state = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    extras = {"control": torch.tensor(bright)}
    path = tmp_path / "dynamic.onnx"
    args = (params, x, state, extras)
    export.to_onnx(block, args, path, dynamic=(None, {0: "batch"}, None, None))
    verdict = export.verify(block, args, path, dynamic=(None, {0: "batch"}, None, None))
    assert verdict.passed, verdict.table()
    assert {row.case for row in verdict.rows} >= {"forced true", "forced false"}
    f = export.load(path)
    torch.testing.assert_close(f(*args), block(*args))
    other = {"control": torch.tensor(not bright)}
    assert not torch.equal(f(params, x, state, other), f(*args))
