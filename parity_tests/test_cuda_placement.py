"""Where CUDA would take the catalogue's nodes: the committed record, and a sample of it placed again."""

import json
from pathlib import Path
from typing import Any

import pytest

from export.devices import cuda_kernels
from export.runtime.environment import version_of
from parity_tests import cuda_placement, cuda_placement_table, cuda_standin
from parity_tests.cuda_placement_cases import SIZES, TRANSFORMS, Subject, subjects

SAMPLE = [
    *(
        Subject("preact_bottleneck_projected", transform, "float32", sizes)
        for transform in TRANSFORMS
        for sizes in SIZES
    ),
    *(Subject("upsample", "gradient", dtype, "dynamic") for dtype in ("float32", "float16", "float64")),
    Subject("attention", "Hessian product", "float32", "dynamic"),
    Subject("dense_block", "per-sample gradient", "float32", "dynamic"),
    Subject("linear", "training step", "bfloat16", "dynamic"),
    Subject("conv2d", "gradient", "bfloat16", "static"),
    Subject("tutorial_resnet", "training step", "float32", "static"),
]


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    record: dict[str, Any] = json.loads(cuda_placement_table.RECORD.read_text(encoding="utf-8"))
    return record


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> dict[Subject, dict[str, Any]]:
    """A sample, placed now."""
    if cuda_standin.why_not():
        pytest.skip(f"the stand-in for CUDA cannot be built: {cuda_standin.why_not()}")
    known = set(subjects())
    lines = tmp_path_factory.mktemp("placement") / "lines.jsonl"
    cuda_placement.run([one for one in SAMPLE if one in known], lines)
    return cuda_placement.read(lines)


@pytest.mark.slow
def test_nothing_that_computes_on_data_is_left_to_the_cpu(again: dict[Subject, dict[str, Any]]) -> None:
    assert len(again) > 15
    assert not [(one, found) for one, found in again.items() if found.get("data") or "failed" in found]
    assert not [(one, found) for one, found in again.items() if found.get("confirmed") is False]


@pytest.mark.slow
def test_the_record_is_what_is_placed_now(committed: dict[str, Any], again: dict[Subject, dict[str, Any]]) -> None:
    if committed["versions"]["onnxruntime-gpu"] != version_of("onnxruntime-gpu"):
        pytest.skip("the record is of another ONNX Runtime")
    listed = {one: committed["rows"].get(one.row, {}).get(one.key) for one in again}
    differing = {
        one: (listed[one], cuda_placement_table.cell(found))
        for one, found in again.items()
        if listed[one] is not None and listed[one] != cuda_placement_table.cell(found)
    }
    assert not differing, "run python -m parity_tests.cuda_placement --write"


@pytest.mark.slow
def test_a_file_with_fixed_sizes_and_no_branch_is_one_cuda_graph(again: dict[Subject, dict[str, Any]]) -> None:
    for one, found in again.items():
        if one.sizes == "static" and "capturable" in found:
            assert found["capturable"], one
            assert (found["to_gpu"], found["to_host"], found["sizes"]) == (0, 0, {}), one


def test_the_record_has_no_compute_node_on_the_cpu(committed: dict[str, Any]) -> None:
    cells = [found for row in committed["rows"].values() for found in row.values()]
    placed = [found for found in cells if isinstance(found, list)]
    assert len(placed) > 400
    assert sum(found[2] for found in placed) == 0
    assert not [found for found in cells if isinstance(found, str) and ("failed" in found or "NOT" in found)]


def test_the_record_is_of_the_table_of_kernels(committed: dict[str, Any]) -> None:
    assert committed["versions"]["onnxruntime-gpu"] == cuda_kernels.VERSION


def test_the_page_is_of_the_record(committed: dict[str, Any]) -> None:
    assert Path(cuda_placement_table.PAGE).read_text(encoding="utf-8") == cuda_placement_table.page(committed)


def test_every_combination_has_a_place_of_its_own() -> None:
    every = list(subjects())
    assert len(every) == len(set(every)) > 9_000
    assert {one.row for one in SAMPLE} <= {one.row for one in every}
