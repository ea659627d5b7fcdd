"""The matrix of transforms: its cells are judged as any export is, and a refused cell leaves the process as it was."""

import pytest

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


def test_a_refused_cell_says_why() -> None:
    cell = transform_matrix.measure("Hessian-vector", "dynamic", "MLP")
    assert cell.outcome == "refused"
    assert cell.message.startswith("SpecialisedSizeError: dynamic size 'batch'")
    assert transform_matrix.plain_export_passes()
