"""Every block of the catalogue exports with a dynamic batch, and its file passes the float64 verdict at every size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import export
from pure.block import Block
from pure.catalogue import CASES, Case


def trained_statistics(state: Any, generator: torch.Generator) -> Any:
    """Batch statistics other than 0 and 1, so that swapped ones cannot hide."""
    if isinstance(state, dict):
        return {key: trained_statistics(value, generator) for key, value in state.items()}
    if not state.is_floating_point():
        return state
    return state + 0.5 * torch.rand(state.shape, generator=generator, dtype=state.dtype)


def example(case: Case) -> tuple[Block, tuple[Any, ...]]:
    block, params, state, x, extras = case.example()
    return block, (params, trained_statistics(state, torch.Generator().manual_seed(1)), x, extras)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_file_of_a_block_passes_at_every_batch_size(case: Case, tmp_path: Path) -> None:
    block, (params, state, x, extras) = example(case)
    dynamic = (None, {0: "batch"}, None, None)
    verdict = export.verify(block, (params, x, state, extras), tmp_path / "block.onnx", dynamic=dynamic)
    assert verdict.passed, verdict.table()
    judged = {row.case for row in verdict.rows if row.status == "pass"}
    assert {f"batch={size}" for size in (1, 2, 3, 7)} <= judged | {f"batch={x.shape[0]}"}


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 64])
def test_one_file_runs_at_any_batch_size_in_the_same_structure(batch: int, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "residual_mlp")
    block, (params, state, x, extras) = example(case)
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
    verdict = export.verify(block, args, path, dynamic=(None, {0: "batch"}, None, None))
    assert verdict.passed, verdict.table()
    assert {row.case for row in verdict.rows} >= {"forced true", "forced false"}
    f = export.load(path)
    torch.testing.assert_close(f(*args), block(*args))
    other = {"control": torch.tensor(not bright)}
    assert not torch.equal(f(params, x, state, other), f(*args))
