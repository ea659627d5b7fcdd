"""Every command of `pure-export`: its output, its JSON, its exit code, and errors as one clean message."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner, Result

from export.app import command_line
from parity_tests.sources import ROOT, parse, python_files
from pure.catalogue import CASES

ROWS = {case.name: case for case in CASES}


def run(*words: object) -> Result:
    return CliRunner().invoke(command_line.app, [str(word) for word in words])


def data(*words: object) -> Any:
    """What the command prints with --json; stdout must hold that and nothing else."""
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def refused(*words: object) -> str:
    """The message of a command that ends in a typed error; as JSON it is the same, on stdout too."""
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    again = run(*words, "--json")
    assert again.exit_code == 2
    error = json.loads(again.stdout)["error"]
    section = f"docs: pure-export docs errors#{error['type'].lower()}"
    assert f"{error['type']}: {error['message']} {section}" == " ".join(result.stderr.splitlines())
    return str(error["message"])


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from export.app import command_line; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = done.stdout.split()
    heavy = {"torch", "pure", "onnx", "onnxruntime", "numpy", "sklearn", "matplotlib"}
    assert not heavy.intersection(name.partition(".")[0] for name in loaded)
    assert not [name for name in loaded if name.startswith(("export.app.report", "export.app.reference"))]
    shown = run("--help")
    assert shown.exit_code == 0
    for command in (
        "list",
        "reference",
        "docs",
        "flow",
        "audit",
        "onnx",
        "verify",
        "weights",
        "quantize",
        "report",
        "doctor",
    ):
        assert f"\n  {command} " in shown.stdout
        described = run(command, "--help").stdout
        assert "--json" in described
        assert f"For example: pure-export {command}" in described
    assert "--install-completion" in shown.stdout


def test_nothing_else_imports_the_application() -> None:
    """The report and the reference page are loaded by their commands alone."""
    for path in python_files():
        top, *inner = path.relative_to(ROOT).parts
        if top in ("pure", "export") and inner[0] != "app":
            assert "export.app" not in {
                ".".join(module.split(".")[:2]) for node in ast.walk(parse(path)) for module in imported(node)
            }, path


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def test_list_shows_every_row() -> None:
    rows = {row["name"]: row for row in data("list")}
    assert list(rows) == list(ROWS)
    assert rows["linear"]["parameters"] == 6 * 3 + 3
    assert {"name", "family", "formula", "parameters", "source", "extras", "checked"} == set(rows["linear"])
    assert all({"oracle", "difference", "float32", "float16"} == set(row["checked"]) for row in rows.values())
    lines = {line.partition(" ")[0]: line for line in run("list").stdout.splitlines()}
    for case in CASES:
        beginning = case.formula[:30].rpartition(" ")[0] if len(case.formula) > 30 else case.formula
        assert beginning in lines[case.name], "a long formula goes on in the next line"


def test_list_shows_which_rows_take_extras() -> None:
    rows = {row["name"]: row["extras"] for row in data("list")}
    assert rows["dynamic_net"] == ["control"]
    assert rows["bert_layer"] == ["attention_mask"]
    assert rows["layer_deep_norm"] == ["[mask]"]
    assert rows["linear"] == []
    for case in CASES:
        needed = {*(("control",) if case.control is not None else ()), *(name for name, _ in case.extras)}
        assert needed == {name for name in rows[case.name] if not name.startswith("[")}
    lines = {line.partition(" ")[0]: line for line in run("list").stdout.splitlines()}
    assert "attention_mask" in lines["bert_layer"]


@pytest.mark.parametrize("by", ["blocks", "leaves", "activations"])
def test_flow_shows_the_measured_numbers(by: str) -> None:
    from export.app import catalogue_examples
    from pure.flow import gradient_norms

    ready = catalogue_examples.call(ROWS["skip_mlp"], seed=3)
    expected = gradient_norms(catalogue_examples.batch_loss(ready), *ready.args).to_dict()
    found = data("flow", "skip_mlp", "--by", by, "--seed", 3)
    assert found["loss"] == expected["loss"]
    assert found[by] == expected[by]
    shown = run("flow", "skip_mlp", "--by", by, "--seed", 3).stdout
    assert "layers.3" in shown
    assert all(f"{entry['l2']:.4g}" in shown for entry in expected[by].values())


def test_flow_per_sample_has_one_norm_a_sample() -> None:
    found = data("flow", "highway_mlp", "--per-sample")
    assert set(map(len, found["leaves"].values())) == {ROWS["highway_mlp"].x_shape[0]}
    assert "p90" in run("flow", "highway_mlp", "--per-sample").stdout


def test_flow_says_that_there_is_nothing_to_measure() -> None:
    assert run("flow", "relu").stdout == "relu has no parameters\n"


def test_flow_draws_a_picture(tmp_path: Path) -> None:
    result = run("flow", "dense_mlp", "--plot", tmp_path / "flow.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "flow.png").read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in tmp_path.iterdir()] == ["flow.png"]


def plainly(result: Any) -> Any:
    """A result as it stands in JSON."""
    from pure_export_shared import json_ready

    return json.loads(json.dumps(json_ready(result.to_dict())))


def test_audit_sorts_digits_by_a_network_of_the_depth_and_width_asked_for() -> None:
    import torch

    from export.app.report import digits
    from export.app.report.settings import Settings
    from pure import flow, nets

    net = nets.skip_mlp(64, 16, 10, depth=6)
    params, _ = net.init(torch.Generator().manual_seed(3))
    loaded = digits.load(Settings(seed=3))
    x, labels = loaded.train_x[:64], loaded.train_y[:64]
    expected = plainly(flow.audit(net, params, x, loss=torch.nn.functional.cross_entropy, targets=(labels,)))
    found = data("audit", "skip_mlp", "--depth", 6, "--width", 16, "--seed", 3)
    assert {"name", "seed", "data", *expected} == set(found)
    assert {name: found[name] for name in expected} == expected
    assert found["data"] == "64 digits of 64 pixels, cross-entropy"


@pytest.mark.parametrize("name", ["gated_residual_network", "dynamic_select", "batch_norm"])
def test_audit_takes_the_example_of_a_row(name: str) -> None:
    from pure import flow

    block, params, state, x, extras = ROWS[name].example(seed=2)
    expected = plainly(flow.audit(block, params, x, state=state, extras=extras))
    found = data("audit", name, "--data", "example", "--seed", 2)
    assert {key: found[key] for key in expected} == expected
    assert found["data"] == f"{len(x)} random inputs, along a random direction of the output"


@pytest.mark.parametrize(
    ("words", "blocks", "given"),
    [
        (("highway", "--depth", 7), 7, "the first 6 principal components of 64 digits, along"),
        (("residual_mlp", "--depth", 4, "--width", 64), 4, "64 digits of 64 pixels, along"),
        (("residual_mlp", "--depth", 4, "--width", 65), 4, "5 random inputs, along"),
        (("basic_block", "--depth", 3), 3, "64 digits of 7×7 pixels, along"),
        (("cifar_resnet", "--depth", 14), 11, "64 digits of 12×12 pixels, cross-entropy"),
        (("dynamic_per_sample", "--depth", 2), 2, "the first 6 principal components of 64 digits, along"),
        (("vit", "--depth", 3, "--width", 12), 12, "64 digits of 8×8 pixels, cross-entropy"),
        (("gpt2_tiny", "--depth", 3), 6, "3 random inputs, along"),
    ],
    ids=str,
)
def test_audit_makes_a_row_deeper_and_wider(words: tuple[object, ...], blocks: int, given: str) -> None:
    found = data("audit", *words)
    assert len(found["blocks"]) == blocks
    assert found["data"].startswith(given)


def test_audit_shows_the_table_and_the_advice_with_its_numbers() -> None:
    words = ("audit", "skip_mlp", "--depth", 60, "--width", 32)
    found = data(*words)
    shown = run(*words)
    assert shown.exit_code == 0
    assert shown.stderr == ""
    assert f"62 blocks, 64 digits of 64 pixels, cross-entropy {found['loss']:.4g}" in shown.stdout
    lines = {line.partition(" ")[0]: line for line in shown.stdout.splitlines()}
    assert "24 of 62 blocks; --full shows all of them" in shown.stdout
    assert f"{found['blocks']['head']['log10_gradient']:.4g}" in lines["head"]
    assert f"{found['blocks']['stem']['log10_gradient']:.4g}" in lines["stem"]
    assert sum(name.startswith("layers.") for name in lines) == 22
    (advice,) = found["advice"]
    assert f"{advice['rule']}: {advice['text']}" in shown.stdout
    assert all(f"{name} {value:.4g}" in shown.stdout for name, value in advice["numbers"].items())
    full = run(*words, "--full").stdout
    assert sum(line.startswith("layers.") for line in full.splitlines()) == 60 + len(found["deletions"])
    assert all(head in full for head in ("branches  log10 gradient", "deleted block", "log10 APJN"))


def test_audit_writes_its_numbers_and_its_picture(tmp_path: Path) -> None:
    numbers, picture = tmp_path / "audit.json", tmp_path / "audit.png"
    result = run("audit", "highway_mlp", "--save", numbers, "--plot", picture)
    assert result.exit_code == 0, result.output
    assert result.stderr.split() == ["wrote", str(numbers), "wrote", str(picture)]
    found = data("audit", "highway_mlp")
    written = json.loads(numbers.read_text())
    assert written == {name: found[name] for name in written}
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert {entry.name for entry in tmp_path.iterdir()} == {"audit.json", "audit.png"}


def test_audit_shows_bars_on_stderr_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes every stream for a terminal
    shown = run("audit", "residual_mlp", "--json")
    assert "backward" in shown.stderr
    assert json.loads(shown.stdout)["name"] == "residual_mlp"
    assert run("audit", "residual_mlp", "--json", "--quiet").stderr == ""


def test_audit_says_how_to_do_without_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else find(name))
    assert "--data example" in refused("audit", "skip_mlp")
    assert run("audit", "skip_mlp", "--data", "example").exit_code == 0


def test_onnx_writes_what_its_options_say(tmp_path: Path) -> None:
    free, fixed = tmp_path / "free.onnx", tmp_path / "fixed.onnx"
    found = data("onnx", "batch_norm", free)
    assert found["inputs"] == ["params.weight", "params.bias", "x", *[n for n in found["inputs"] if "state" in n]]
    assert found["opset"] == 20
    batch = onnx.load(free).graph.input[2].type.tensor_type.shape.dim[0]
    assert batch.dim_param == "batch"
    found = data("onnx", "batch_norm", fixed, "--bake", "--static", "--opset", 18)
    assert (found["inputs"], found["opset"]) == (["x"], 18)
    assert onnx.load(fixed).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    shown = run("onnx", "batch_norm", fixed, "--bake")
    assert shown.exit_code == 0
    assert "(x)" in shown.stdout


def test_verify_passes_and_shows_the_ratio() -> None:
    found = data("verify", "linear", "dynamic_net")
    assert found["passed"] is True
    assert set(found["verdicts"]) == {"linear", "dynamic_net"}
    cases = {row["case"] for row in found["verdicts"]["linear"]["rows"]}
    assert {"batch=1", "batch=2", "batch=3", "batch=7"} < cases
    shown = run("verify", "linear")
    assert shown.exit_code == 0
    assert f"{found['verdicts']['linear']['worst']:.3g}" in shown.stdout
    assert run("verify", "linear", "--full").stdout.count("batch=") > shown.stdout.count("batch=")


def test_verify_all_takes_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from pure import catalogue

    chosen = tuple(ROWS[name] for name in ("linear", "relu", "plain_mlp"))
    monkeypatch.setattr(catalogue, "CASES", chosen)
    assert list(data("verify", "--all")["verdicts"]) == ["linear", "relu", "plain_mlp"]


def test_a_failed_verdict_ends_with_1(tmp_path: Path) -> None:
    path = tmp_path / "linear.onnx"
    assert run("onnx", "linear", path, "--bake", "--seed", 1).exit_code == 0
    result = run("verify", path, "--against", "linear", "--json")  # the parameters of seed 0 are in no file of seed 1
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["passed"] is False
    assert found["verdicts"][str(path)]["status"] == "fail"
    shown = run("verify", path, "--against", "linear")
    assert shown.exit_code == 1
    assert "FAIL" in shown.stdout


def test_a_limit_below_the_ratio_fails() -> None:
    worst = data("verify", "linear")["verdicts"]["linear"]["worst"]
    assert run("verify", "linear", "--limit", worst * 0.1).exit_code == 1
    assert run("verify", "linear", "--limit", worst * 1.1).exit_code == 0


def test_one_error_does_not_hide_the_other_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    import export
    from export.errors import UnsupportedOpError

    original = export.verify

    def broken(fn: Any, args: Any, *rest: Any, **options: Any) -> Any:
        if "weight" not in args[0]:
            raise UnsupportedOpError("no relu today", op="aten.relu.default")
        return original(fn, args, *rest, **options)

    monkeypatch.setattr(export, "verify", broken)
    result = run("verify", "linear", "relu", "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert found["passed"] is False
    assert found["verdicts"]["linear"]["status"] == "pass"
    assert found["verdicts"]["relu"]["error"] == {"type": "UnsupportedOpError", "message": "no relu today"}
    assert "no relu today" in run("verify", "linear", "relu").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("flow", "skip_mpl"), "did you mean 'skip_mlp'"),
        (("onnx", "nothing", "n.onnx"), "is unknown"),
        (("onnx", "linear", "/no/such/folder/n.onnx"), "does not exist"),
        (("onnx", "linear", "n.onnx", "--opset", 3), "opset must be from 13 to 23"),
        (("flow", "linear", "--plot", "/tmp/n.nothing"), "no picture format"),
        (("flow", "linear", "--per-sample", "--by", "activations"), "by leaves or blocks"),
        (("audit", "skip_mpl"), "did you mean 'skip_mlp'"),
        (("audit", "linear", "--width", 4), "linear has no width to choose"),
        (("audit", "resnet", "--depth", 3), "resnet has no depth, only depths"),
        (("audit", "linear", "--depth", 3), "it cannot be repeated"),
        (("audit", "cifar_resnet", "--depth", 9), "6 n + 2"),
        (("audit", "gpt2_tiny", "--data", "digits"), "takes token indices"),
        (("audit", "conv1d", "--data", "digits"), "digits are images"),
        (("audit", "embedding"), "no gradient reaches it"),
        (("audit", "relu", "--save", "/no/such/folder/a.json"), "folder"),
        (("audit", "relu", "--plot", "/tmp/n.nothing"), "no picture format"),
        (("verify",), "or --all"),
        (("verify", "linear", "--all"), "or --all"),
        (("verify", "a.onnx", "b.onnx", "--against", "linear"), "exactly one file"),
        (("verify", "--all", "--against", "linear"), "exactly one file"),
        (("verify", "a.onnx"), "a.onnx --against TARGET"),
        (("verify", "a.onnx", "--against", "linear"), "no such file"),
        (("verify", "linear", "--limit", "-1"), "above 0"),
    ],
)
def test_errors_are_one_message(
    words: tuple[object, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(*words)
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback() -> None:
    from pure.errors import ArgumentError

    result = run("flow", "skip_mpl", "--debug")
    assert isinstance(result.exception, ArgumentError)
    assert result.exit_code == 1


def test_cuda_is_never_replaced_silently() -> None:
    from export.runtime import sessions

    if sessions.cuda_problem() is None:
        assert data("verify", "linear", "--device", "cuda")["verdicts"]["linear"]["device"] == "cuda"
    else:
        assert "device='cuda' cannot be had" in refused("verify", "linear", "--device", "cuda")


def test_weights_lists_and_replaces_the_tensors_inside_a_file(tmp_path: Path) -> None:
    import torch

    import export
    import pure

    model, checkpoint, out = tmp_path / "f.onnx", tmp_path / "new.safetensors", tmp_path / "out.onnx"
    written = data("onnx", "linear", model, "--bake", "--external")
    assert data("weights", model) == [
        {"name": "params.weight", "dtype": "float32", "shape": [3, 6], "file": ""},
        {"name": "params.bias", "dtype": "float32", "shape": [3], "file": ""},
    ]
    assert written["data"] is None, "nothing in it is large"
    assert "params.weight  float32  3 × 6" in run("weights", model).stdout
    new = {"weight": torch.full((3, 6), 2.0), "bias": torch.arange(3.0)}
    for tree in (new, {"params": new}):
        pure.save(tree, checkpoint)
        assert data("weights", model, checkpoint, "--out", out) == {"path": str(out), "replaced": 2}
        assert export.load(out)(torch.ones(1, 6)).tolist() == [[12.0, 13.0, 14.0]]
    pure.save({"weight": new["weight"], "bais": new["bias"]}, checkpoint)
    result = run("weights", model, checkpoint, "--out", out)
    assert result.exit_code == 2
    assert "params.bias: missing (did you mean 'params.bais'?)" in result.stderr
    assert "go together" in refused("weights", model, checkpoint)
