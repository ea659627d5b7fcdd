"""Every script in examples/ runs, and shows what its docstring promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN_CELLS = """
import ast, json, pathlib, sys
import matplotlib
matplotlib.use("Agg")
names = {}
for cell in json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))["cells"]:
    if cell["cell_type"] != "code":
        continue
    *body, last = ast.parse("".join(cell["source"])).body
    exec(compile(ast.Module([*body], []), "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        print(type(shown).__name__, "as HTML" if hasattr(shown, "_repr_html_") else "")
    else:
        exec(compile(ast.Module([last], []), "cell", "exec"), names)
"""

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


def test_the_notebook_runs_cell_by_cell_and_shows_what_is_known_by_construction(root: Path, tmp_path: Path) -> None:
    notebook = root / "examples" / "depth.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells), "outputs are not committed"
    command = [sys.executable, "-W", "error", "-c", RUN_CELLS, str(notebook)]
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "plain     stream 1.103^L over 60 blocks" in done.stdout
    assert "post-norm stream 1^L over 59 blocks" in done.stdout
    assert done.stdout.count("exponential: True") == 1
    for shown in ("Sequential", "Audit", "Exported", "Verdict"):
        assert f"{shown} as HTML" in done.stdout
    assert sorted(path.name for path in tmp_path.glob("*.html")) == ["audit.html", "paths.html", "verdict.html"]
