"""Files of every opset: their format is no later than the opset's own, and those below 18 are judged like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import export
import pure
from export.errors import ArgumentError, UnsupportedOpError
from export.graph.onnx_export import OPSETS

RELEASED = dict(onnx.helper.OP_SET_ID_VERSION_MAP)
X = torch.linspace(-2, 2, 32).reshape(2, 16)


def network(depth: int = 3) -> tuple[pure.Block, Any]:
    block = pure.Sequential(pure.LayerNorm(16), pure.nets.residual_mlp(features=16, hidden_features=8, depth=depth))
    params, _ = block.init(torch.Generator().manual_seed(0))
    return block, params


@pytest.mark.parametrize("opset", OPSETS)
def test_a_file_has_the_format_that_was_released_with_its_opset(opset: int, tmp_path: Path) -> None:
    """ONNX Runtime 1.17 knows opset 20 and format 9, and refuses a file of opset 20 in format 10."""
    block, params = network()
    path = tmp_path / "f.onnx"
    exported = export.to_onnx(block, (params, X), path, opset=opset)
    model = onnx.load(path)
    first = min(ir for (domain, found), ir in RELEASED.items() if domain == "ai.onnx" and found == opset)
    assert (exported.opset, model.opset_import[0].version) == (opset, opset)
    assert model.ir_version == first
    assert {entry.domain for entry in model.opset_import} <= ({""} if opset < 18 else {"", "pure_export"})
    assert export.verify(block, (params, X), path, device="cpu").passed


@pytest.mark.parametrize("opset", [13, 15, 17])
def test_gradients_of_convolutions_and_norms_in_older_opsets(opset: int) -> None:
    block = pure.nets.residual_block(3, 4, padding=1, shortcut=pure.Project(3, 4))
    params, state = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))

    def loss(params: Any, state: Any, x: Tensor) -> Tensor:
        y, _ = block.apply(params, x, state, training=True)
        return F.layer_norm(y, y.shape[1:]).pow(3).mean()

    verdict = export.verify(torch.func.grad(loss), (params, state, x), opset=opset, device="cpu")
    assert verdict.passed, verdict.table()


def test_dynamic_sizes_data_files_and_notes_of_nodes_survive_the_conversion(tmp_path: Path) -> None:
    block, params = network()
    path = tmp_path / "f.onnx"
    exported = export.to_onnx(block, (params, X), path, bake=(0,), dynamic=(None, {0: "batch"}), opset=16, external=64)
    assert exported.data is not None
    assert not exported.functions
    verdict = export.verify(block, (params, X), path, bake=(0,), dynamic=(None, {0: "batch"}), device="cpu")
    assert verdict.passed, verdict.table()
    notes = {entry.key for node in onnx.load(path).graph.node for entry in node.metadata_props}
    assert {"path", "source"} <= notes


def test_loops_and_branches_are_converted_inside(tmp_path: Path) -> None:
    block = pure.Repeat(pure.Residual(pure.Sequential(pure.LayerNorm(16), pure.Linear(16, 16))), 5)
    params, _ = block.init(torch.Generator().manual_seed(0))
    path = tmp_path / "f.onnx"
    export.to_onnx(block, (params, X), path, opset=17)
    assert "Scan" in {node.op_type for node in onnx.load(path).graph.node}
    assert export.verify(block, (params, X), path, device="cpu").passed
    with pytest.raises(UnsupportedOpError, match=r"no LayerNormalization.*export with opset=17"):
        export.to_onnx(block, (params, X), path, opset=16)

    def branch(x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x.mean(0), lambda x: x.amax(0), (x,))

    verdict = export.verify(branch, (X,), opset=15, device="cpu")
    assert verdict.passed, verdict.table()


def test_what_an_older_opset_lacks_is_named_with_the_opset_that_has_it(tmp_path: Path) -> None:
    def add(x: Tensor, at: Tensor) -> Tensor:
        return torch.zeros(5).index_add(0, at, x)

    args = (torch.ones(3), torch.tensor([0, 2, 2]))
    with pytest.raises(UnsupportedOpError, match=r"opset 15 has no form of Scatter\w+ as node .* export with opset=16"):
        export.to_onnx(add, args, tmp_path / "f.onnx", opset=15)
    assert not list(tmp_path.iterdir())
    assert export.verify(add, args, opset=16, device="cpu").passed


@pytest.mark.parametrize("opset", [12, 24, "17"])
def test_other_opsets_are_an_error(opset: Any, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="opset must be from 13 to 23"):
        export.to_onnx(torch.tanh, (X,), tmp_path / "f.onnx", opset=opset)
