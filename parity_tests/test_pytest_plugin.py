"""The pytest plugin: parity asserted in one call, short failures, and stored numbers that flag a shift."""

import dataclasses
import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import export
from export.errors import ArgumentError
from export.testing import baselines
from export.testing.baselines import Baseline
from export.verdict.verdict_result import OutputSample, Row, Verdict
from parity_tests.sources import ROOT

pytest_plugins = "pytester"

SUITE = """
import logging

import onnx
import pytest
import torch
from onnx import numpy_helper

import export
from parity_tests import edited_files


def net(weight, x):
    return torch.tanh(x @ weight)


ARGS = torch.linspace(-1, 1, 12).reshape(4, 3), torch.linspace(-2, 2, 20).reshape(5, 4)


def wrong_file(folder):
    export.to_onnx(net, ARGS, folder / "wrong.onnx", bake=(0,))
    model = onnx.load(folder / "wrong.onnx")
    (tensor,) = model.graph.initializer
    tensor.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(tensor), tensor.name))
    edited_files.save(model, folder / "wrong.onnx")
    return folder / "wrong.onnx"


def test_passes(onnx_parity, tmp_path):
    verdict = onnx_parity(net, ARGS, dynamic=(None, {0: "batch"}))
    assert verdict.passed and {row.case for row in verdict.rows} > {"batch=1", "batch=7"}
    assert (tmp_path / "model.onnx").is_file()


def test_two_calls(onnx_parity, tmp_path):
    onnx_parity(torch.tanh, (torch.ones(3),))
    onnx_parity(torch.sin, (torch.ones(3),))
    assert (tmp_path / "model-1.onnx").is_file()


def test_a_file_that_is_given(onnx_parity, tmp_path):
    export.to_onnx(net, ARGS, tmp_path / "own.onnx", bake=(0,))
    assert onnx_parity(net, ARGS, tmp_path / "own.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_fails(onnx_parity, tmp_path):
    logging.getLogger("mine").warning("a word of the user's")
    onnx_parity(net, ARGS, wrong_file(tmp_path))


def test_many_leaves_fail(onnx_parity):
    def many(x):
        logging.getLogger("torch.fx").warning("noise of torch from inside")
        return {f"leaf{i:02}": torch.sin(x + i) for i in range(40)}

    onnx_parity(many, (torch.linspace(0.1, 1, 7),), limit=1e-9)


def test_is_no_export(onnx_parity):
    onnx_parity(lambda x: x + torch.rand(3), (torch.ones(3),))


def deep(x):
    raise KeyError("mine")


def test_users_own_error(onnx_parity):
    onnx_parity(lambda x: deep(x), (torch.ones(3),))


def test_bare_assert(tmp_path):
    verdict = export.verify(net, ARGS, wrong_file(tmp_path))
    assert verdict


def test_bare_assert_of_a_call(tmp_path):
    assert export.verify(net, ARGS, wrong_file(tmp_path))


def test_another_assertion():
    verdict = export.verify(torch.tanh, (torch.ones(3),))
    assert verdict and 1 == 2
"""

SMALL = """
import torch


def test_tanh(onnx_parity):
    onnx_parity(lambda x: torch.tanh(3 * x), (torch.linspace(-1, 1, 50),))


def test_sin(onnx_parity):
    onnx_parity(lambda x: torch.sin(x), (torch.linspace(-1, 1, 50),))
"""

Pytester = pytest.Pytester


def run(pytester: Pytester, *words: str) -> pytest.RunResult:
    """Run pytest in a process of its own, with this repository's plugin and no other configuration."""
    return pytester.runpytest_subprocess("-p", "pure_export_pytest", "-p", "no:cacheprovider", *words)


@pytest.fixture
def suite(pytester: Pytester, monkeypatch: pytest.MonkeyPatch) -> Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeini("[pytest]\n")
    return pytester


def section(text: str, test: str) -> str:
    """The part of the output on one failed test."""
    return text.partition(f"_ {test} _")[2].partition("\n____")[0].partition("\n====")[0]


def test_the_module_loads_nothing_heavy() -> None:
    code = "import sys; import pure_export_pytest; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "numpy", "onnx", "onnxruntime", "export", "pure", "typer", "rich"}


def test_pytest_finds_the_plugin_by_its_entry_point(suite: Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    installed = suite.mkdir("site") / "as_installed-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: as-installed\nVersion: 1.0\n")
    lines = [f"{name} = {module}" for name, module in entry_points.items()]
    (installed / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines]))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{suite.path / 'site'}")
    suite.makepyfile(
        "import sys\n\n\n"
        "def test_it(onnx_parity):\n"
        "    assert callable(onnx_parity)\n"
        "    assert 'torch' not in sys.modules\n"
    )
    suite.runpytest_subprocess().assert_outcomes(passed=1)
    run(suite).assert_outcomes(passed=1)  # asked for by name too, it is the same plugin
    suite.runpytest_subprocess("-p", "no:pure_export_pytest").assert_outcomes(errors=1)


def test_passes_and_failures_of_a_suite(suite: Pytester) -> None:
    suite.makepyfile(test_suite=SUITE)
    result = run(suite, "-W", "error")
    text = result.stdout.str()
    result.assert_outcomes(passed=3, failed=7)
    for name in ("test_passes", "test_two_calls", "test_a_file_that_is_given"):
        assert f"_ {name} _" not in text

    failed = section(text, "test_fails")
    assert "FAIL  " in failed
    assert "wrong.onnx on cpu" in failed
    assert "wrong.onnx.reproduction" in failed
    assert "stored values are not the given ones" in failed
    assert "a word of the user's" in failed
    assert "Traceback" not in failed
    assert ".py:" not in failed.partition("Captured")[0].replace("test_suite.py:", ""), "no frames"

    many = section(text, "test_many_leaves_fail")
    assert "noise of torch" not in many
    assert "lines more" in many
    assert len(many.splitlines()) < 35

    assert "RandomOpError: " in section(text, "test_is_no_export")
    assert "Traceback" not in section(text, "test_is_no_export")

    own = section(text, "test_users_own_error")
    assert "KeyError: 'mine'" in own
    assert "in deep" in own or "def deep" in own
    assert "export/" not in own
    assert "pure_export_pytest.py" not in own

    for name in ("test_bare_assert", "test_bare_assert_of_a_call"):
        bare = section(text, name)
        assert "assert <Verdict FAIL  " in bare
        assert "- ONNX verdict -" in bare
        assert "fail: the error is" in bare
    assert "ONNX verdict" not in section(text, "test_another_assertion")


def test_options_and_settings_of_configuration_files(suite: Pytester) -> None:
    suite.makepyfile(test_small=SMALL)
    suite.makeini("[pytest]\nonnx_parity_limit = 1e-9\nonnx_parity_device = cpu\n")
    run(suite).assert_outcomes(failed=2)
    run(suite, "--onnx-parity-limit", "8").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        (("--onnx-parity-limit", "-1"), "", "must be above 0"),
        ((), "onnx_parity_limit = much", "is 'much', expected a number"),
        ((), "onnx_parity_device = tpu", "is 'tpu', expected auto, cpu or cuda"),
        (("--onnx-parity-update",), "", "give --onnx-parity-baseline DIR"),
    ],
)
def test_settings_that_do_not_fit(suite: Pytester, words: tuple[str, ...], settings: str, said: str) -> None:
    suite.makeini(f"[pytest]\n{settings}\n")
    result = run(suite, *words)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stderr.str()


def edited(folder: Path, change: Any) -> None:
    """Change what is stored of `test_tanh`: `change` takes the entries of its only call."""
    (path,) = folder.glob("*test_tanh*.json")
    content = json.loads(path.read_text())
    content["calls"][0] = change(content["calls"][0])
    path.write_text(json.dumps(content))


def as_old(entries: dict[str, Any]) -> dict[str, Any]:
    (entry,) = entries.values()
    return {"torch 1.0.0, onnxruntime 1.0.0, CPUExecutionProvider": entry}


def as_old_and_other(entries: dict[str, Any]) -> dict[str, Any]:
    (entry,) = entries.values()
    values = baselines._numbers(entry["outputs"]["out"]["values"])
    entry["outputs"]["out"]["values"] = baselines._text(list(values * (1 + 1e-5)))
    return as_old(entries)


@pytest.mark.slow
def test_numbers_that_shifted_are_flagged_and_fail_if_strict(suite: Pytester) -> None:
    suite.makepyfile(test_small=SMALL)
    base = suite.path / "base"
    words = ("--onnx-parity-baseline", "base")
    result = run(suite, *words)
    result.assert_outcomes(passed=2)
    assert "2 without stored numbers: --onnx-parity-update stores them" in result.stdout.str()
    assert not base.exists()

    run(suite, *words, "--onnx-parity-update", "-n", "2").assert_outcomes(passed=2)
    assert len(list(base.iterdir())) == 2, "one file a test, and nothing unfinished"
    edited(base, as_old)
    assert "onnx parity" not in run(suite, *words).stdout.str(), "other versions or the same, equal numbers"

    edited(base, as_old_and_other)
    result = run(suite, *words, "-n", "2")
    result.assert_outcomes(passed=2)
    (line,) = [line for line in result.stdout.lines if line.startswith("shifted: ")]
    assert line.startswith("shifted: test_small.py::test_tanh: out: the output has moved by ")
    assert "its float64 reference has not" in line
    assert line.endswith("since torch 1.0.0, onnxruntime 1.0.0, CPUExecutionProvider")

    suite.makeini("[pytest]\nonnx_parity_baseline = base\nonnx_parity_strict = true\n")
    result = run(suite)
    result.assert_outcomes(passed=1, failed=1)
    assert "numbers have shifted:" in result.stdout.str()
    assert "--onnx-parity-update" in result.stdout.str()

    run(suite, "--onnx-parity-update").assert_outcomes(passed=2)
    (path,) = base.glob("*test_tanh*.json")
    assert len(json.loads(path.read_text())["calls"][0]) == 2, "the old versions' numbers stay"
    run(suite).assert_outcomes(passed=2)

    path.write_text("{")
    result = run(suite, "-k", "tanh")
    result.assert_outcomes(failed=1)
    assert "is not a stored baseline" in result.stdout.str()


def verdict(**changes: Any) -> Verdict:
    row = Row("out", "example", "float32", 1.0, 1e-8, 1e-8, 0.5, 8.0, "pass")
    sample = OutputSample("out", 2.0, (1.0, 2.0, math.nan, math.inf), (1.0, 2.0, math.nan, math.inf), (1e-7,) * 4)
    whole: dict[str, Any] = {
        "path": "m.onnx",
        "rows": (row,),
        "predicates": (),
        "device": "cpu",
        "lifted": (),
        "runs": 3,
        "divergence": None,
        "seconds": 0.1,
        "outputs": (sample,),
    }
    return Verdict(**{**whole, **changes})


def stored(found: Verdict, folder: Path) -> dict[str, Any]:
    """What is read back after a verdict was stored, as if by other versions."""
    base = Baseline.read(folder, "t.py::test")
    base.put(0, found)
    (entry,) = Baseline.read(folder, "t.py::test").stored(0).values()
    return {"old": entry}


def sample_with(**changes: Any) -> tuple[OutputSample, ...]:
    return (dataclasses.replace(verdict().outputs[0], **changes),)


def test_equal_numbers_are_no_shift(tmp_path: Path) -> None:
    assert baselines.shifts(stored(verdict(), tmp_path), verdict(), 8.0) == []
    assert baselines.shifts({}, verdict(), 8.0) == []
    rounded = sample_with(values=(1.0 + 7e-7, 2.0, math.nan, math.inf))
    assert baselines.shifts(stored(verdict(), tmp_path), verdict(outputs=rounded), 8.0) == [], "7 rounding scales"


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"outputs": sample_with(values=(1.0 + 9e-7, 2.0, math.nan, math.inf))}, "moved by 9 rounding scales (1 → 1"),
        ({"outputs": sample_with(values=(1.0, 2.0, 0.0, math.inf))}, "moved by inf rounding scales (nan → 0)"),
        ({"outputs": sample_with(values=(1.0, 2.0, math.nan, -math.inf))}, "(inf → -inf)"),
        (
            {"outputs": sample_with(values=(1.1, 2.0, math.nan, math.inf), reference=(1.1, 2.0, math.nan, math.inf))},
            "so has its float64 reference",
        ),
        ({"outputs": sample_with(values=(1.0,), reference=(1.0,), scales=(1e-7,))}, "out: of another size than stored"),
        ({"outputs": sample_with(leaf="y")}, "y: not stored"),
        ({"outputs": ()}, "out: no longer an output"),
        (
            {"rows": (dataclasses.replace(verdict().rows[0], ratio=2.1),)},
            "out [example]: the ratio has grown from 1 to 2.1",
        ),
    ],
)
def test_what_is_a_shift(tmp_path: Path, now: dict[str, Any], said: str) -> None:
    lines = baselines.shifts(stored(verdict(), tmp_path), verdict(**now), 8.0)
    assert lines
    assert said in lines[0]
    assert lines[0].endswith("since old")


def test_a_ratio_may_double_and_stay_below_1(tmp_path: Path) -> None:
    def with_ratio(ratio: float) -> Verdict:
        return verdict(rows=(dataclasses.replace(verdict().rows[0], ratio=ratio),))

    assert baselines.shifts(stored(with_ratio(0.1), tmp_path), with_ratio(0.9), 8.0) == []
    assert baselines.shifts(stored(with_ratio(1.0), tmp_path), with_ratio(2.0), 8.0) == []


def test_the_current_versions_take_the_place_of_others(tmp_path: Path) -> None:
    base = Baseline.read(tmp_path, "t.py::test")
    base.put(0, verdict())
    other = verdict(outputs=sample_with(values=(5.0, 2.0, math.nan, math.inf)))
    entries = {**Baseline.read(tmp_path, "t.py::test").stored(0), "newer": stored(other, tmp_path / "b")["old"]}
    assert baselines.shifts(entries, verdict(), 8.0) == []
    assert baselines.shifts({"newer": entries["newer"]}, verdict(), 8.0)
    cuda = verdict(device="cuda")
    assert baselines.current_versions("cuda") != baselines.current_versions("cpu")
    assert baselines.shifts(entries, cuda, 8.0), "the provider is another: held against the latest"


def test_many_elements_are_thinned(tmp_path: Path) -> None:
    x = torch.linspace(-1, 1, 5000)
    found = export.verify(lambda x: [x * i for i in range(1, 9)], (x,), device="cpu")
    entry = stored(found, tmp_path)["old"]
    assert sum(len(baselines._numbers(out["values"])) for out in entry["outputs"].values()) == 1024
    assert baselines.shifts({"old": entry}, found, 8.0) == []
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < 64 * 1024


def test_baselines_of_other_tests_and_damaged_ones(tmp_path: Path) -> None:
    base = Baseline.read(tmp_path, "t.py::test[a/b]")
    base.put(0, verdict())
    assert base.path.parent == tmp_path
    assert baselines.path_for(tmp_path, "t.py::test[a-b]") != base.path
    content = json.loads(base.path.read_text())
    base.path.write_text(json.dumps({**content, "node": "another"}))
    with pytest.raises(ArgumentError, match="another test or format"):
        Baseline.read(tmp_path, "t.py::test[a/b]")
    (entry,) = content["calls"][0].values()
    entry["outputs"]["out"]["values"] = "no base64!"
    with pytest.raises(ArgumentError, match="is damaged"):
        baselines.shifts({"old": entry}, verdict(), 8.0)
