"""The matrix of transforms: its cells are judged as any export is, and a refused cell leaves the process as it was."""

import pytest
import torch

from export.app.sweep import Outcome
from parity_tests import transform_matrix


@pytest.mark.parametrize(
    ("transform", "sizes", "network"),
    [
        ("grad by params", "dynamic", "MLP"),
        ("grad by params", "static", "conv GN"),
        ("vjp", "static", "DenseNet block"),
        ("Hessian-vector", "static", "transformer"),
        ("grad(cond)", "dynamic", "DynamicNet"),
    ],
)
def test_a_cell_is_right(transform: str, sizes: str, network: str) -> None:
    cell = transform_matrix.measure(transform, sizes, network)
    assert cell.outcome == "right", cell.message


def test_the_gradient_of_a_whole_resnet_runs_in_onnx_runtime() -> None:
    cell = transform_matrix.measure("grad by params", "static", "ResNet-18")
    assert cell.outcome == "right", cell.message


def test_a_refused_cell_names_the_line_and_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def fixed(name: str) -> transform_matrix.Built:
        network, params, x = transform_matrix.prepared(name)
        return lambda p, x: network(p, x) + torch.ones(4, 1), (params, x), (None, transform_matrix.BATCH)

    monkeypatch.setitem(transform_matrix.TRANSFORMS, "grad by params", fixed)
    cell = transform_matrix.measure("grad by params", "dynamic", "MLP")
    assert cell.outcome == "refused"
    assert cell.message.startswith("SpecialisedSizeError: dynamic size 'batch'")
    assert "test_transform_matrix.py" in cell.message
    assert transform_matrix.next_export_passes()


@pytest.mark.parametrize(("outcomes", "status"), [("right " * 9 + "refused", 0), ("right refused", 1), ("wrong", 1)])
def test_the_exit_status_tells_a_wrong_cell_and_too_few_right_ones(
    outcomes: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [transform_matrix.Cell("vjp", "static", "MLP", word, 1.0, "", 0.0) for word in outcomes.split()]
    found = [Outcome("vjp, static, MLP", vars(cell)) for cell in cells]
    monkeypatch.setattr(transform_matrix, "sweep", lambda run, names, **options: found)
    assert transform_matrix.main("--only", "vjp, static, MLP") == status
