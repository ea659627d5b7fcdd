"""The verdict passes on correct files and fails on broken ones: each kind of damage is a negative control."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper

import export
import pure
from export import errors
from export.trace.arguments import take_apart
from export.verdict import judge, pooled_errors, reference_runs
from export.verdict.error_ratio import Errors, Measured
from pure import tags

DYNAMIC = (None, {0: "batch"})


def seeded(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


PARAMS = {f"block{i}": {"weight": seeded(8, 8 + i)[:, :8] / 3, "bias": seeded(8)} for i in range(3)}
X = seeded(5, 8)


def network(params: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    for name, block in params.items():
        with tags.scope(name):
            x = x + F.gelu(F.linear(x, block["weight"], block["bias"]))
    return {"y": x, "z": x.sin(), "loss": x.square().mean(), "top": x.argmax(1), "sign": x > 0}


def damaged(tmp_path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    path = tmp_path / "f.onnx"
    export.to_onnx(network, (PARAMS, X), path, bake=(0,), dynamic=DYNAMIC)
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def judged(path: Path) -> export.Verdict:
    return export.verify(network, (PARAMS, X), path, dynamic=DYNAMIC, bake=(0,))


def edit(name: str, change: Callable[[Any], Any]) -> Callable[[onnx.ModelProto], None]:
    def apply(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))

    return apply


def set_first(value: float, relative: bool = False) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array.flat[0] = array.flat[0] * value if relative else value
        return array

    return change


def test_a_correct_file_passes_in_every_case() -> None:
    verdict = export.verify(network, (PARAMS, X), dynamic=DYNAMIC)
    assert verdict.passed, verdict.table()
    assert verdict
    assert {row.case for row in verdict.rows} == {f"batch={size}" for size in (1, 2, 3, 5, 7, 11)}
    assert {row.leaf for row in verdict.rows} == {"out.y", "out.z", "out.loss", "out.top", "out.sign"}
    assert 0 < verdict.worst <= 2
    assert verdict.divergence is None
    assert verdict.raise_if_failed() is verdict


def test_a_weight_off_by_a_thousandth_fails_and_its_node_is_named(tmp_path: Path) -> None:
    verdict = judged(damaged(tmp_path, edit("params.block1.weight", set_first(1.001, relative=True))))
    assert not verdict.passed
    assert verdict.divergence is not None
    assert verdict.divergence.path == "block1"
    assert verdict.divergence.op == "Gemm"
    assert "test_verify_verdict.py" in verdict.divergence.source
    assert "in network" in verdict.divergence.source
    folder = Path(verdict.divergence.reproduction)
    assert {file.name for file in folder.iterdir()} == {"model.onnx", "inputs.npz", "expected.npz", "reproduce.py"}
    done = subprocess.run([sys.executable, str(folder / "reproduce.py")], capture_output=True, text=True, check=True)
    assert "out.y: root mean square difference" in done.stdout
    assert verdict.divergence.node in done.stdout
    with pytest.raises(errors.VerificationError, match=r"(?s)FAIL.*out\.y.*first differs at node"):
        verdict.raise_if_failed()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_fail(value: float, tmp_path: Path) -> None:
    verdict = judged(damaged(tmp_path, edit("params.block2.bias", set_first(value))))
    reasons = [row.reason for row in verdict.rows if row.status == "fail" and row.leaf == "out.y"]
    assert reasons
    assert all("NaN or inf" in reason for reason in reasons)
    assert verdict.divergence is not None
    assert verdict.divergence.path == "block2"


def swap_outputs(model: onnx.ModelProto) -> None:
    names = {"out.y": "out.z", "out.z": "out.y"}
    for node in model.graph.node:
        for i, name in enumerate(node.output):
            node.output[i] = names.get(name, name)
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)


def wrong_index(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "ArgMax")
    node.op_type = "ArgMin"


def wrong_activation(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Gelu")
    node.attribute.extend([helper.make_attribute("approximate", "tanh")] if not node.attribute else [])
    for attribute in node.attribute:
        attribute.s = b"tanh"


def wrong_dtype(model: onnx.ModelProto) -> None:
    text = json.loads(next(p.value for p in model.metadata_props if p.key == "pure_export.call"))
    producer = next(node for node in model.graph.node if "out.sign" in node.output)
    producer.output[0] = "before"
    model.graph.node.append(helper.make_node("Cast", ["before"], ["out.sign"], to=onnx.TensorProto.INT64))
    next(
        value for value in model.graph.output if value.name == "out.sign"
    ).type.tensor_type.elem_type = onnx.TensorProto.INT64
    assert text["format"] == 1


def wrong_structure(model: onnx.ModelProto) -> None:
    entry = next(p for p in model.metadata_props if p.key == "pure_export.call")
    entry.value = entry.value.replace('"top":{"leaf":3}', '"last":{"leaf":3}')


def frozen_batch(model: onnx.ModelProto) -> None:
    """A mean whose divisor is the example's batch: right at 5 rows only."""
    node = next(node for node in model.graph.node if "out.loss" in node.output)
    node.output[0] = "mean"
    model.graph.initializer.append(numpy_helper.from_array(np.array(5, np.float32), "five"))
    model.graph.node.append(helper.make_node("Shape", ["x"], ["size"], start=0, end=1))
    model.graph.node.append(helper.make_node("Cast", ["size"], ["row"], to=onnx.TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("ReduceSum", ["row"], ["rows"], keepdims=0))
    model.graph.node.append(helper.make_node("Mul", ["mean", "rows"], ["total"]))
    model.graph.node.append(helper.make_node("Div", ["total", "five"], ["out.loss"]))


@pytest.mark.parametrize(
    ("change", "leaf", "reason"),
    [
        (swap_outputs, "out.y", "times the rounding scale"),
        (wrong_index, "out.top", "values differ"),
        (wrong_activation, "out.y", "times the rounding scale"),
        (wrong_dtype, "out.sign", "dtype int64, expected bool"),
        (wrong_structure, "(all)", "structure"),
        (frozen_batch, "out.loss", "times the rounding scale"),
    ],
)
def test_damage_fails_on_the_leaf_it_touches(
    change: Callable[[onnx.ModelProto], None], leaf: str, reason: str, tmp_path: Path
) -> None:
    verdict = judged(damaged(tmp_path, change))
    failed = [row for row in verdict.rows if row.status == "fail"]
    assert leaf in {row.leaf for row in failed}, verdict.table(full=True)
    assert any(reason in row.reason for row in failed)
    if change is frozen_batch:
        assert not [row for row in failed if row.case == "batch=5"], "the example's own size is right"


def test_a_file_of_another_function_fails(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    export.to_onnx(lambda x: x.exp(), (X,), path)
    assert not export.verify(lambda x: x.exp() * 1.00001, (X,), path).passed
    assert export.verify(lambda x: x.exp(), (X,), path).passed


def test_an_existing_file_is_judged_and_not_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    export.to_onnx(lambda x: x * 2, (X,), path)
    content = path.read_bytes()
    assert not export.verify(lambda x: x * 3, (X,), path).passed
    assert path.read_bytes() == content


def test_the_file_that_is_written_has_the_opset_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    assert export.verify(network, (PARAMS, X), path, opset=18).passed
    assert {entry.domain: entry.version for entry in onnx.load(path).opset_import}[""] == 18


def test_a_file_without_the_dynamic_size_fails_at_other_sizes(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    export.to_onnx(lambda x: x * 2, (X,), path)
    verdict = export.verify(lambda x: x * 2, (X,), path, dynamic=({0: "batch"},))
    assert {row.case: row.status for row in verdict.rows}["batch=5"] == "pass"
    assert all(
        row.status == "fail" and "the file refuses" in row.reason for row in verdict.rows if row.case != "batch=5"
    )


def test_sizes_that_eager_rejects_are_skipped() -> None:
    verdict = export.verify(lambda x: x.reshape(-1, 2, 8).sum(1), (X[:4],), dynamic=({0: "batch"},))
    assert verdict.passed
    status = {row.case: row.status for row in verdict.rows}
    assert status["batch=4"] == status["batch=2"] == "pass"
    assert status["batch=1"] == status["batch=3"] == status["batch=7"] == "skipped"
    assert "eager itself refuses" in next(row.reason for row in verdict.rows if row.status == "skipped")


def test_a_float64_function_is_judged_in_float64(tmp_path: Path) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return ((x @ x.mT).tanh() @ x).softmax(1)

    path = tmp_path / "f.onnx"
    verdict = export.verify(fn, (X.double(),), path)
    assert verdict.passed, verdict.table()
    assert next(row.rounding_scale for row in verdict.rows) < 1e-14
    coarse = export.verify(lambda x: fn(x.float()).double(), (X.double(),), path)
    assert coarse.passed, "the same function with a downcast inside is the same function once the cast is lifted"
    assert coarse.lifted
    lossy = tmp_path / "g.onnx"
    export.to_onnx(lambda x: fn(x.float()).double(), (X.double(),), lossy)
    assert not export.verify(fn, (X.double(),), lossy).passed


def test_half_precision_has_a_limit_of_three() -> None:
    verdict = export.verify(lambda x: (x @ x.mT).softmax(1), (X.half(),), device="cpu")
    assert verdict.passed, verdict.table()
    assert {row.limit for row in verdict.rows} == {3.0}


def test_casts_inside_are_lifted_for_the_reference() -> None:
    verdict = export.verify(lambda x: (x.half().float() * 2, x), (X,))
    assert any("test_verify_verdict.py" in line for line in verdict.lifted)


def test_another_version_must_agree_as_well() -> None:
    module = torch.nn.Linear(8, 4)
    params = {name: value.detach() for name, value in module.named_parameters()}

    def fn(params: Any, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, params["weight"], params["bias"])

    same = export.verify(fn, (params, X), against=module)
    assert same.passed, same.table()
    assert "against" in {row.case for row in same.rows}
    assert export.verify(fn, (params, X), against=lambda p, x: x @ p["weight"].mT + p["bias"]).passed
    wrong = export.verify(fn, (params, X), against=lambda p, x: x @ p["weight"].mT)
    assert {row.case for row in wrong.rows if row.status == "fail"} == {"against"}


def test_both_branches_are_forced_and_one_that_is_wrong_is_found(tmp_path: Path) -> None:
    def fn(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.mean() > -100, lambda a: a * 2, lambda a: a.exp() + shift, (x,))

    path = tmp_path / "f.onnx"
    shift = torch.ones(8)
    verdict = export.verify(fn, (X, shift), path, bake=(1,))
    assert verdict.passed, verdict.table()
    assert {row.case for row in verdict.rows} == {"example", "forced true", "forced false"}
    (predicate,) = verdict.predicates
    assert predicate.taken is True
    assert predicate.margin == pytest.approx(100 + float(X.mean()), rel=1e-6)
    assert "in fn" in predicate.source
    model = onnx.load(path)
    edit("shift", set_first(1.01))(model)
    onnx.save(model, path)
    broken = export.verify(fn, (X, shift), path, bake=(1,))
    assert {row.case for row in broken.rows if row.status == "fail"} == {"forced false"}


def test_a_predicate_inside_rounding_is_ambiguous(tmp_path: Path) -> None:
    # The sum is 0 in exact arithmetic; in float32 it is one rounding away from it.
    x = torch.tensor([0.1, 0.2, -0.3]).repeat(7)
    shift = torch.tensor(float(x.double().sum()))

    def fn(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > shift, lambda a: a * 2, lambda a: a * 3, (x,))

    eager, exact = bool(x.sum() > shift), bool(x.double().sum() > shift.double())
    verdict = export.verify(fn, (x,), tmp_path / "f.onnx")
    (predicate,) = verdict.predicates
    assert predicate.rounding is not None
    assert predicate.margin is not None
    assert abs(predicate.margin) <= 8 * predicate.rounding
    if eager != exact:
        assert predicate.status == "ambiguous"
        assert verdict.status == "ambiguous"
        assert not verdict.passed
    assert {row.status for row in verdict.rows if row.case.startswith("forced")} == {"pass"}


@pytest.mark.parametrize(
    ("later", "status", "runs"),
    [(1.0, "pass", 64), (3.0, "fail", 64), (30.0, "fail", 1)],
    ids=["by chance", "narrowly but always", "by far"],
)
def test_a_narrow_failure_on_few_inputs_is_looked_at_on_more(
    later: float, status: str, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([max(later, 3.0)] + [later] * 63)

    def measured(numeric: list[int], *_: Any) -> Measured:
        return Measured({i: Errors(file=next(errors) ** 2, eager=1.0, norm=0.0, count=1) for i in numeric}, False)

    for limit in ("MIN_SAMPLES", "MAX_SAMPLES"):
        monkeypatch.setattr(judge, limit, 1)
    monkeypatch.setattr(pooled_errors, "measure", measured)
    verdict = export.verify(torch.tanh, (seeded(3),))
    assert (verdict.status, verdict.samples) == (status, runs)


def test_what_failed_stands_first(tmp_path: Path) -> None:
    path = damaged(tmp_path, edit("params.block2.bias", lambda value: value + 1e-3))
    verdict = judged(path)
    assert verdict.table().splitlines()[2].split()[0] in {row.leaf for row in verdict.rows if row.status == "fail"}


def test_a_verdict_is_plain_data(tmp_path: Path) -> None:
    verdict = judged(damaged(tmp_path, edit("params.block0.bias", set_first(math.nan))))
    again = json.loads(json.dumps(verdict.to_dict()))
    assert again["passed"] is False
    assert again["status"] == "fail"
    assert len(again["rows"]) == len(verdict.rows)
    assert "out.y" in verdict.table()
    assert verdict.table(full=True).count("\n") > verdict.table().count("\n")


def test_a_foreign_file_cannot_be_judged(tmp_path: Path) -> None:
    a = helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [5, 8])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [5, 8])
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["y"])], "g", [a], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "f.onnx")
    with pytest.raises(errors.ArgumentError, match="was not written by to_onnx"):
        export.verify(torch.relu, (X,), tmp_path / "f.onnx")


def test_parameters_that_a_function_captured_are_lifted_to_the_reference_as_well() -> None:
    net = pure.Sequential(conv=pure.Conv2d(3, 4, 3), norm=pure.GroupNorm(2, 4), scale=pure.Scale(4, 0.5, axis=1))
    params, _ = net.init(torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))

    def captured(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = net(params, x)
        return y

    verdict = export.verify(captured, (x,), dynamic=({0: "batch"},))
    assert verdict.passed, verdict.table()
    arguments = take_apart(captured, (x,), None)
    (found,) = reference_runs.run(captured, arguments, arguments.leaves, to=torch.float64).leaves
    assert torch.equal(found, net(pure.cast(params, torch.float64), x.double())), "the weights are lifted too"
