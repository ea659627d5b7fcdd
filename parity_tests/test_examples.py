"""Every script in examples/ runs, and shows what its docstring promises."""

import subprocess
import sys
from pathlib import Path

import pytest

EXPECTED = {
    "skips.py": ["30 × simple_block ", "30 × simple_block_with_skip"],
    "dynamic_depth.py": ["select and branch agree: True", "ONNX Runtime on cpu, control 0.9"],
    "finetune.py": ["ONNX verdict: passed"],
    "checkpoint.py": ["held-out accuracy", "the same bits: True; ONNX verdict: pass"],
    "prune.py": ["weights: 75% zeros", "zeroed network, verdict: pass", "whole network, verdict: pass"],
    "spmd_curvature.py": ["step 20: loss", "processes: 1", "eigenvalues as on one process: True"],
    "quantize.py": ["calibrated with digits: pass", "calibrated with digits times 100: fail"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_example_runs(name: str, root: Path) -> None:
    script = root / "examples" / name
    command = [sys.executable, "-W", "error", str(script)]
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    for part in EXPECTED[name]:
        assert part in result.stdout
    assert "agree: False" not in result.stdout


def test_every_example_is_named_here(root: Path) -> None:
    assert sorted(path.name for path in (root / "examples").glob("*.py")) == sorted(EXPECTED)
