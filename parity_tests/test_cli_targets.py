"""Commands on a user's own modules and files: `verify FILE --against`, its JUnit report, targets of other commands."""

import contextlib
import io
import json
import os
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import numpy_helper

import export
from export.app import targets
from parity_tests import edited_files
from parity_tests.sources import ROOT
from parity_tests.test_cli import data, refused, run

NET = """
import torch
from torch import nn

import pure


class Net(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.fc = nn.Linear(4, width)
        self.out = nn.Linear(width, 2)

    def forward(self, x):
        return self.out(torch.relu(self.fc(x)))


def fn(a, b):
    return torch.tanh(a) + b


def other(a, b):
    return torch.tanh(a) + 1.001 * b


def ignores(a, b):
    return a + 0 * b.shape[0]


class Masked(Net):
    def forward(self, x, mask):
        return super().forward(x) * mask[:, None]


block = pure.nets.simple_block(6, 5, 3)


def from_block():
    return pure.interop.to_module(block, *block.init(torch.Generator().manual_seed(0)))


def fails(a, b):
    raise LookupError("not for these inputs")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a file of a user's own and inputs for it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet.py").write_text(NET)
    random = np.random.default_rng(0)
    np.savez("x.npz", x=random.normal(size=(5, 4)).astype(np.float32))
    np.savez("wide.npz", x=np.ones((5, 9), np.float32))
    np.savez("ab.npz", a=random.normal(size=(5, 4)).astype(np.float32), b=np.ones((5, 4), np.float32))
    return tmp_path


def with_another_weight(path: Path, name: str, out: Path) -> None:
    """Write a file again with one of its weights 1 % larger."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(tensor), name))
    edited_files.save(model, out)


def test_the_versions_are_shown() -> None:
    lines = dict(line.split(maxsplit=1) for line in run("--version").stdout.splitlines())
    assert lines["torch"] == metadata.version("torch")
    assert lines["onnx"] == metadata.version("onnx")
    assert {"pure-export", "torch", "onnx"} < set(lines)
    assert any(name.startswith("onnxruntime") for name in lines)


def test_a_file_is_judged_against_the_module_that_it_came_from(folder: Path) -> None:
    assert data("onnx", "mynet.py:Net", "net.onnx", "--inputs", "x.npz", "--bake")["inputs"] == ["x"]
    found = data("verify", "net.onnx", "--against", "mynet.py:Net", "--inputs", "x.npz")
    assert found["passed"] is True
    assert {"batch=1", "batch=2", "batch=3", "batch=5"} <= {
        row["case"] for row in found["verdicts"]["net.onnx"]["rows"]
    }
    assert data("verify", "net.onnx", "--against", "mynet.py:Net")["passed"] is True, "inputs as the file declares them"
    with_another_weight(folder / "net.onnx", "params.fc.weight", folder / "wrong.onnx")
    result = run("verify", "wrong.onnx", "--against", "mynet.py:Net")
    assert result.exit_code == 1
    assert "first differs at node" in result.stdout
    assert (folder / "wrong.onnx.reproduction" / "reproduce.py").is_file()


def test_a_file_that_was_changed_is_judged_if_asked_for(folder: Path) -> None:
    data("onnx", "mynet.py:Net", "net.onnx", "--inputs", "x.npz", "--bake")
    model = onnx.load("net.onnx")
    model.graph.node[0].doc_string = "changed"
    onnx.save(model, "changed.onnx")
    assert run("verify", "changed.onnx", "--against", "mynet.py:Net").exit_code == 2
    assert data("verify", "changed.onnx", "--against", "mynet.py:Net", "--no-check")["passed"] is True


def test_parameters_that_a_file_takes_are_perturbed(folder: Path) -> None:
    data("onnx", "rezero", "rezero.onnx")
    assert data("verify", "rezero.onnx", "--against", "rezero")["passed"] is True
    model = onnx.load("rezero.onnx")
    tanh = next(node for node in model.graph.node if node.op_type == "Tanh")
    tanh.op_type = "Sigmoid"  # in the branch, which has no influence at initialisation
    edited_files.save(model, Path("wrong.onnx"))
    assert run("verify", "wrong.onnx", "--against", "rezero").exit_code == 1


def test_weights_of_a_checkpoint(folder: Path) -> None:
    torch.manual_seed(3)
    checkpoint = {
        "fc.weight": torch.randn(6, 4),
        "fc.bias": torch.randn(6),
        "out.weight": torch.randn(2, 6),
        "out.bias": torch.randn(2),
    }
    safetensors.torch.save_file(checkpoint, "w.safetensors")
    words = ("--inputs", "x.npz", "--weights", "w.safetensors")
    data("onnx", "mynet.py:Net", "net.onnx", "--bake", *words)
    stored = export.weights("net.onnx", "torch")["params"]
    assert torch.equal(stored["fc"]["weight"], checkpoint["fc.weight"])
    assert data("verify", "net.onnx", "--against", "mynet.py:Net", *words)["passed"] is True
    assert run("verify", "net.onnx", "--against", "mynet.py:Net", "--inputs", "x.npz").exit_code == 1
    del checkpoint["out.bias"]
    safetensors.torch.save_file(checkpoint, "w.safetensors")
    assert "out.bias: missing" in run("verify", "net.onnx", "--against", "mynet.py:Net", *words).stderr


def test_functions_are_judged_and_exported(folder: Path) -> None:
    assert data("onnx", "mynet.py:fn", "f.onnx", "--inputs", "ab.npz")["inputs"] == ["a", "b"]
    assert data("verify", "f.onnx", "--against", "mynet:fn")["passed"] is True
    assert run("verify", "f.onnx", "--against", "mynet.py:other", "--json").exit_code == 1
    assert data("verify", "mynet.py:fn", "--inputs", "ab.npz")["passed"] is True


def test_a_row_a_network_and_the_model_of_a_library(folder: Path) -> None:
    data("onnx", "resnet20", "net.onnx", "--bake")
    assert data("verify", "net.onnx", "--against", "resnet20")["passed"] is True
    found = data("onnx", "timm:test_vit", "vit.onnx", "--bake")
    assert found["inputs"] == ["x"]
    assert onnx.load("vit.onnx").graph.input[0].type.tensor_type.shape.dim[2].dim_value == 160


def test_measurements_take_targets(folder: Path) -> None:
    found = data("flow", "mynet.py:Net", "--inputs", "x.npz", "--by", "leaves")
    assert set(found["leaves"]) == {"fc.weight", "fc.bias", "out.weight", "out.bias"}
    audited = data("audit", "mynet.py:Net", "--inputs", "x.npz")
    assert audited["data"] == "5 inputs, along a random direction of the output"
    np.savez("six.npz", x=np.ones((3, 6), np.float32))
    assert data("audit", "skip_mlp", "--inputs", "six.npz")["data"].startswith("3 inputs")
    found = data("audit", "timm:test_vit")
    assert list(found["blocks"])[3:5] == ["blocks.0.attn", "blocks.0.mlp"]
    assert found["family"][-1] == "blocks.5.mlp"
    assert "go with a row" in refused("audit", "mynet.py:Net", "--inputs", "x.npz", "--depth", "3")
    assert "is a function" in refused("audit", "mynet.py:fn", "--inputs", "ab.npz")


def test_a_target_is_quantised(folder: Path) -> None:
    random = np.random.default_rng(0)
    np.savez("many.npz", x=random.normal(size=(400, 4)).astype(np.float32), labels=random.integers(0, 2, 400))
    result = run("quantize", "mynet.py:Net", "many.npz", "--out", "q.onnx", "--json")
    assert result.exit_code in (0, 1), result.output
    assert json.loads(result.stdout)["leaves"]
    assert (folder / "q.onnx").is_file()
    assert "goes with a target" in refused(
        "quantize", "q.onnx", "many.npz", "--out", "r.onnx", "--weights", "w.safetensors"
    )


def from_torch(out: str, *args: torch.Tensor, attribute: str = "Net", **options: Any) -> None:
    """Write a file by torch.onnx.export, from the module that the target names."""
    module = targets.resolve(f"mynet.py:{attribute}").value.eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module, args, out, dynamo=True, verbose=False, external_data=False, **options)


def test_a_file_of_pytorchs_exporter_is_judged_in_one_command(folder: Path) -> None:
    from_torch("net.onnx", torch.randn(3, 4), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for more in ((), ("--inputs", "x.npz"), ("--inputs", "x.npz", "--inputs", "x3.npz")):
        np.savez("x3.npz", x=np.ones((3, 4), np.float32))
        found = data("verify", "net.onnx", "--against", "mynet.py:Net", *more)["verdicts"]["net.onnx"]
        assert found["status"] == "pass"
        assert {"batch=1", "batch=2", "batch=3", "batch=7"} <= {row["case"] for row in found["rows"]}
    assert any(row["case"].startswith("sample 1") for row in found["rows"])
    with_another_weight(folder / "net.onnx", "fc.weight", folder / "wrong.onnx")
    result = run("verify", "wrong.onnx", "--against", "mynet.py:Net", "--junit", "out.xml")
    assert result.exit_code == 1
    assert "first differs at node" in result.stdout
    assert int(junit("out.xml").get("failures", "")) > 0
    assert run("verify", "net.onnx", "--against", "mynet.py:Net", "--seed", 1).exit_code == 1, "other random weights"


def test_inputs_of_a_file_under_other_names_are_taken_in_order(folder: Path) -> None:
    from_torch("two.onnx", torch.randn(3, 4), torch.tensor([1, 0, 1]), attribute="Masked", input_names=["p", "q_mask"])
    assert data("verify", "two.onnx", "--against", "mynet.py:Masked")["passed"] is True
    np.savez("named.npz", p=np.ones((3, 4), np.float32), q_mask=np.array([0, 1, 1]))
    assert data("verify", "two.onnx", "--against", "mynet.py:Masked", "--inputs", "named.npz")["passed"] is True
    np.savez("args.npz", x=np.ones((3, 4), np.float32), mask=np.array([0, 1, 1]))
    assert data("verify", "two.onnx", "--against", "mynet.py:Masked", "--inputs", "args.npz")["passed"] is True


def test_a_block_against_a_file_of_pytorchs_exporter(folder: Path) -> None:
    from_torch("block.onnx", torch.randn(2, 6), attribute="from_block")
    assert data("verify", "block.onnx", "--against", "mynet.py:block")["passed"] is True
    assert run("verify", "block.onnx", "--against", "mynet.py:block", "--seed", 1).exit_code == 1


def test_what_has_no_influence_is_said(folder: Path) -> None:
    assert run("onnx", "mynet.py:ignores", "i.onnx", "--inputs", "ab.npz").exit_code == 0
    result = run("verify", "i.onnx", "--against", "mynet.py:ignores")
    assert result.exit_code == 0
    assert "no output depended on b" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("verify", "f.onnx", "--against", "mynet.py:nf"), "did you mean 'fn'"),
        (("verify", "f.onnx", "--against", "mynet.py:fn", "--opset", 18), "of opset 20, expected 18"),
        (("verify", "f.onnx", "--against", "mynet.py:Net"), "are not the arguments of mynet.py:Net"),
        (("verify", "f.onnx", "--against", "mynet.py:fails"), "LookupError: not for these inputs"),
        (
            ("verify", "f.onnx", "--against", "mynet.py:fn", "--inputs", "x.npz"),
            "arrays of x.npz are not",
        ),
        (("verify", "mynet.py:fn"), "give --inputs FILE.npz with arrays a, b"),
        (("verify", "mynet.py:fn", "--inputs", "no.npz"), "cannot be read"),
        (("onnx", "mynet.py:Net", "n.onnx"), "give --inputs FILE.npz with arrays x"),
        (("onnx", "mynet.py:Net", "n.onnx", "--inputs", "wide.npz"), "(5, 9)"),
        (("onnx", "mynet.py:fails", "n.onnx", "--inputs", "ab.npz"), "LookupError: not for these inputs"),
        (("flow", "mynet.py:Net", "--inputs", "wide.npz"), "(5, 9)"),
        (("flow", "mynet.py:fn", "--inputs", "ab.npz", "--per-sample"), "one input with a batch axis"),
        (("audit", "mynet.py:Net", "--inputs", "wide.npz"), "(5, 9)"),
        (("verify", "mynet.py:Net", "--inputs", "wide.npz"), "(5, 9)"),
        (("flow", "mynet.py:gn"), "did you mean 'fn'"),
        (("quantize", "mynet.py:gn", "x.npz", "--out", "q.onnx"), "did you mean 'fn'"),
    ],
)
def test_mistakes_are_one_message(folder: Path, words: tuple[object, ...], said: str) -> None:
    assert run("onnx", "mynet.py:fn", "f.onnx", "--inputs", "ab.npz").exit_code == 0
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_a_function_that_cannot_be_recorded_is_one_message(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "export.app.command_line",
        "onnx",
        "mynet.py:Net",
        "n.onnx",
        "--inputs",
        "wide.npz",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr, "PyTorch's log of it is not shown"


CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"testcase", "system-out"},
    "testcase": {"failure", "error", "skipped"},
}
ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testcase": {"classname", "name", "time"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"message"},
    "system-out": set(),
}
"""What the schema that Jenkins, GitLab and GitHub's readers share allows, as far as it is used here."""


def junit(path: str) -> ET.Element:
    """Read a report, and hold every element against the schema and every count against what is there."""
    root = ET.parse(path).getroot()
    assert root.tag == "testsuites"
    for element in root.iter():
        assert set(element.attrib) == ATTRIBUTES[element.tag], element.tag
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
        if "time" in element.attrib:
            assert float(element.get("time", "")) >= 0
    for owner in (root, *root.findall("testsuite")):
        for count, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            if owner.get(count) is not None:
                assert int(owner.get(count, "")) == len(list(owner.iter(tag))), count
    return root


def test_the_junit_report_of_a_pass_and_of_a_failure(folder: Path) -> None:
    data("onnx", "mynet.py:Net", "net.onnx", "--inputs", "x.npz", "--bake")
    found = data("verify", "net.onnx", "--against", "mynet.py:Net", "--junit", "out.xml")
    root = junit("out.xml")
    names = [case.get("name") for case in root.iter("testcase")]
    assert names == [f"{row['leaf']} [{row['case']}]" for row in found["verdicts"]["net.onnx"]["rows"]]
    assert root.get("failures") == "0"
    with_another_weight(folder / "net.onnx", "params.fc.weight", folder / "wrong.onnx")
    assert run("verify", "wrong.onnx", "--against", "mynet.py:Net", "--junit", "out.xml").exit_code == 1
    failures = list(junit("out.xml").iter("failure"))
    assert any("stored values are not the given ones" in failure.get("message", "") for failure in failures)
    assert any("times the rounding scale" in failure.get("message", "") for failure in failures)
    assert all("FAIL  wrong.onnx" in (failure.text or "") for failure in failures)
    assert not [entry for entry in folder.iterdir() if entry.name.endswith(".tmp")]


def test_the_junit_report_of_several_targets_and_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = export.verify

    def broken(fn: object, args: tuple[object, ...], *rest: object, **options: object) -> export.Verdict:
        if isinstance(args[0], dict) and "weight" not in args[0]:
            raise export.errors.UnsupportedOpError("no relu\x00 today\nat all", op="aten.relu.default")
        return original(fn, args, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(export, "verify", broken)
    assert run("verify", "linear", "relu", "batch_norm", "--junit", "out.xml").exit_code == 2
    suites = {suite.get("name"): suite for suite in junit("out.xml")}
    assert list(suites) == ["linear", "relu", "batch_norm"]
    (error,) = suites["relu"].iter("error")
    assert (error.get("type"), error.get("message")) == ("UnsupportedOpError", "no relu? today")


def test_a_junit_report_that_cannot_be_written(folder: Path) -> None:
    assert "does not exist" in refused("verify", "linear", "--junit", "no/such/folder/out.xml")
