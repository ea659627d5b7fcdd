"""What is run on a GPU machine runs here on the CPU: the same code, one tiny cell, one check, one file.

Nothing here asserts how fast anything is.
"""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import cuda, cuda_machine, floor, page
from benchmarks.__main__ import main
from benchmarks.cuda_networks import NETWORKS, both
from benchmarks.harness import Measurement
from parity_tests import cuda_predicted, cuda_standin
from parity_tests.cuda_checks import CHECKS
from parity_tests.cuda_placement_cases import Subject


@pytest.mark.slow
def test_the_benchmark_runs_on_the_cpu(tmp_path: Path) -> None:
    path = tmp_path / "cuda.json"
    main(["cuda", "--device", "cpu", "--quick", "--json", str(path)])
    (found,) = json.loads(path.read_text(encoding="utf-8"))["measurements"]
    assert "stopped" not in found["notes"], found["notes"]
    assert [timing["name"] for timing in found["timings"]] == ["eager", "nn.Module", "export.jit", "torch.compile"]
    assert found["notes"]["operations"] > 0
    assert found["notes"]["floor"] == "none: no peak is known for 'cpu'"
    assert max(found["notes"][f"error of {name}"] for name in ("eager", "export.jit", "torch.compile")) < 1e-5


@pytest.mark.slow
def test_one_run_fills_one_file_and_the_next_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = [
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
        "--steps",
        "checks",
        "catalogue",
        "--only",
        "rounding scale",
        "linear",
    ]
    assert cuda_machine.main(again) == 0
    (path,) = tmp_path.iterdir()
    data = json.loads(path.read_text(encoding="utf-8"))
    assert path.name.startswith("cuda-cpu-")
    assert data["checks"]["rounding scale"]["passed"]
    assert data["catalogue"]["rows"]["verdicts"]["linear"]["status"] == "pass"
    assert {"date", "versions", "cuda", "cudnn"} <= data["machine"]["environment"].keys()
    assert {"builds", "libraries", "providers"} <= data["machine"]["doctor"].keys()
    assert cuda_machine.main(again) == 0
    assert json.loads(path.read_text(encoding="utf-8"))["checks"] == data["checks"]
    assert "check rounding scale" in capsys.readouterr().out


def test_a_check_that_fails_or_hangs_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = cuda_machine.opened(tmp_path, "cpu")
    found = cuda_machine.ran("parity_tests.cuda_checks", ["no such check", "cpu"], 100)
    assert not found["passed"]
    assert "KeyError: 'no such check'" in found["error"]
    results.put("checks", "wrong", found)
    slow = cuda_machine.ran("parity_tests.cuda_checks", ["placement", "cpu"], 0.01)
    results.put("checks", "slow", slow)
    assert slow == {"stopped": "not done within 0 s"}
    again = cuda_machine.opened(tmp_path, "cpu")
    assert again.data["checks"] == {"wrong": found, "slow": slow}
    assert again.has("checks", "wrong")
    assert not again.has("checks", "slow")  # it is tried again


@pytest.mark.slow
@pytest.mark.skipif(bool(cuda_standin.why_not()), reason=f"no stand-in for CUDA: {cuda_standin.why_not()}")
def test_on_the_stand_in_each_step_goes_as_far_as_its_first_run(tmp_path: Path) -> None:
    code = "import sys; from benchmarks import cuda_machine; print(cuda_machine.main(sys.argv[1:]))"
    only = ("--only", "predicted placement", "rounding scale", "linear", "--steps", "checks", "catalogue")
    done = cuda_standin.python(code, "--out", str(tmp_path), "--minutes", "8", *only, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = tmp_path.iterdir()
    data = json.loads(path.read_text(encoding="utf-8"))
    assert "computes-nothing" in path.name
    assert data["checks"]["predicted placement"]["passed"], "which runs nothing"
    assert data["checks"]["predicted placement"]["facts"]["nodes elsewhere than predicted"] == 0
    assert not data["checks"]["rounding scale"]["passed"]
    assert [row["status"] for row in data["catalogue"]["rows"]["verdicts"].values()] in ([], ["failed"])


def test_what_says_most_comes_first() -> None:
    assert next(iter(CHECKS)) == "predicted placement"
    assert [cell.transform for cell in cuda.CELLS[:4]] == ["gradient"] * 4
    assert [cell.autotune for cell in cuda.CELLS] == sorted(cell.autotune for cell in cuda.CELLS), "the slowest last"
    assert cuda_machine.MINUTES < 9
    assert list(cuda_machine.UNTIL.values()) == sorted(cuda_machine.UNTIL.values())


def test_every_row_is_placed_once_before_one_is_a_second_time() -> None:
    known = [(Subject(row, transform, "float32", "static"), 0) for row in "abc" for transform in ("forward", "jvp")]
    order = [one for one, _ in cuda_predicted.each_row_first(known)]
    assert [one.row for one in order] == [*"abc", *"abc"]
    assert [one.transform for one in order[:3]] == ["forward", "jvp", "forward"]


def test_cells_for_which_there_is_no_time_are_named() -> None:
    left_out = list(cuda.measurements(minutes=0.1))
    assert [found.name for found in left_out] == [cell.name for cell in cuda.CELLS]
    assert all(found.notes["left out"] == "0.1 minutes were over" for found in left_out)
    assert not list(cuda.measurements(minutes=0.1, done=[cell.name for cell in cuda.CELLS]))


def test_a_cell_that_is_too_slow_says_so() -> None:
    found = cuda.isolated(cuda.QUICK_CELLS[0], "cpu", True, 0.01)
    assert found == Measurement(cuda.QUICK_CELLS[0].name, {"stopped": "not all was done within 0 s"}, ())


def test_the_floor_is_the_larger_of_operations_and_bytes() -> None:
    a, b = torch.ones(64, 32), torch.ones(32, 16)
    assert floor.operations(torch.matmul, (a, b)) == 2 * 64 * 32 * 16
    moved = floor.traffic((a, b), a @ b)
    assert moved == 4 * (64 * 32 + 32 * 16 + 64 * 16)
    name = "NVIDIA H100 80GB HBM3"
    peak = floor.PEAKS[name]
    for flops, tf32 in ((1, False), (10**12, False), (10**12, True)):
        notes = floor.floor(name, tf32, flops, moved)
        rate = peak.tf32 if tf32 else peak.float32
        assert notes["floor, seconds"] == max(flops / rate, moved / peak.bytes)
    assert "floor, seconds" not in floor.floor("an unknown device", False, 1, 1)


@pytest.mark.parametrize("name", ["tiny", "transformer"])
def test_block_and_module_are_the_same_network(name: str) -> None:
    block, params, state, module, x = both(NETWORKS[name], "cpu")
    x = x[:2, :8]
    x = x if name == "transformer" else x.new_ones(2, 16)
    torch.testing.assert_close(block(params, x, state), module(x), rtol=1e-4, atol=1e-5)


def test_the_table_shows_medians_floor_and_checks() -> None:
    timing = {"name": "export.jit", "median_seconds": 0.0123}
    data = {
        "machine": {
            "environment": {
                "date": "2026-01-02T03:04:05",
                "cuda_device": "NVIDIA H100 80GB HBM3",
                "cuda": "13.0",
                "versions": {"torch": "2.11.0", "onnxruntime-gpu": "1.31.1"},
            }
        },
        "checks": {"placement": {"passed": True}, "TF32": {"passed": False}},
        "speed": {"a": {"name": "a cell", "notes": {"floor, seconds": 0.001}, "timings": [timing]}},
    }
    text = page.cuda(data)
    assert "1 of 2 checks pass; not: TF32" in text
    assert "| a cell | – | – | – | – | 12.3 | 1 |" in text


def test_the_page_shows_the_gpu_results_that_are_committed(root: Path) -> None:
    text = (root / page.PAGE).read_text(encoding="utf-8")
    found = page.gpu_results(root)
    assert bool(found) == ("<!-- cuda table:" in text), "results and table come together: python -m benchmarks.page"
    for path in found[-1:]:
        assert page.drawn(text, "cuda", json.loads(path.read_text(encoding="utf-8"))) == text
