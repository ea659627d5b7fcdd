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
from export.verdict import reference_runs, sampled
from export.verdict.verdict_result import Row
from parity_tests import edited_files
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
    edited_files.save(model, path)
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
    assert 0 < verdict.worst <= 8
    assert all(row.eager is None or row.eager <= 8 for row in verdict.rows)
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
    done = subprocess.run([sys.executable, str(folder / "reproduce.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "(the first node that differs)" in done.stdout
    assert "out.y at" in done.stdout
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
    assert export.verify(network, (PARAMS, X), opset=18).passed
    export.to_onnx(network, (PARAMS, X), path, opset=18)
    assert export.verify(network, (PARAMS, X), path).passed
    with pytest.raises(errors.ArgumentError, match="keeps its own"):
        export.verify(network, (PARAMS, X), path, opset=18)


def test_a_mistyped_path_writes_nothing(tmp_path: Path) -> None:
    export.to_onnx(network, (PARAMS, X), tmp_path / "model.onnx")
    with pytest.raises(errors.ArgumentError, match=r"did you mean 'model\.onnx'.*verify writes none"):
        export.verify(network, (PARAMS, X), tmp_path / "modle.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_file_without_the_dynamic_size_fails_at_other_sizes(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    export.to_onnx(lambda x: x * 2, (X,), path)
    verdict = export.verify(lambda x: x * 2, (X,), path, dynamic=({0: "batch"},))
    assert {row.case: row.status for row in verdict.rows}["batch=5"] == "pass"
    others = [row for row in verdict.rows if row.case not in ("batch=5", "interface")]
    assert all(row.status == "fail" and "the file refuses" in row.reason for row in others)
    assert "declared [5, 8], expected ['batch', 8]" in verdict.table()


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
    export.to_onnx(fn, (X.double(),), path)
    verdict = export.verify(fn, (X.double(),), path)
    assert verdict.passed, verdict.table()
    assert next(row.rounding_scale for row in verdict.rows) < 1e-14
    coarse = export.verify(lambda x: fn(x.float()).double(), (X.double(),), path)
    assert coarse.passed, "the same function with a downcast inside is the same function once the cast is lifted"
    assert coarse.lifted
    lossy = tmp_path / "g.onnx"
    export.to_onnx(lambda x: fn(x.float()).double(), (X.double(),), lossy)
    assert not export.verify(fn, (X.double(),), lossy).passed


def test_half_precision_is_judged_in_its_own_roundings(tmp_path: Path) -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return (x @ x.mT).softmax(1)

    verdict = export.verify(fn, (X.half(),), device="cpu")
    assert verdict.passed, verdict.table()
    assert 1e-5 < max(row.rounding_scale or 0.0 for row in verdict.rows) < 1e-2
    path = tmp_path / "f.onnx"
    export.to_onnx(lambda x: fn(x) * 1.02, (X.half(),), path)
    assert export.verify(fn, (X.half(),), path).status == "fail"


def test_numbers_whose_roundings_are_not_random_pass() -> None:
    weight = torch.linspace(-1, 1, 64 * 64).reshape(64, 64)  # each product errs the same way
    verdict = export.verify(lambda x, w, b: torch.tanh(x @ w + b), (torch.ones(2, 64), weight, torch.zeros(64)))
    assert verdict.passed, verdict.table()
    assert max(row.eager or 0.0 for row in verdict.rows) > 4, "eager errs as much"


def test_the_same_seed_gives_the_same_verdict(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    export.to_onnx(network, (PARAMS, X), path, dynamic=DYNAMIC)
    first, second = (export.verify(network, (PARAMS, X), path, dynamic=DYNAMIC) for _ in range(2))
    assert first.rows == second.rows
    assert first.decisions == second.decisions


@pytest.mark.parametrize("room", [0, 3000])
def test_roundings_that_are_computed_again_are_those_that_were_kept(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph whose roundings have no room, through a loop, a condition and a norm; a file that is off then fails."""

    def fn(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y, _ = pure.scan(lambda h, w: (F.layer_norm(h + torch.relu(h @ w), (8,)), None), x, weights)
        return torch.cond(y.mean() > -100, lambda a: a.softmax(-1), lambda a: a.exp(), (y,))

    def rows() -> dict[tuple[str, str], Row]:
        verdict = export.verify(fn, args, path, dynamic=DYNAMIC)
        return {(row.leaf, row.case): row for row in verdict.rows}

    args, path, kept = (seeded(3, 8, 8) / 3, X), tmp_path / "f.onnx", []
    export.to_onnx(fn, args, path, dynamic=DYNAMIC)
    usual = rows()
    monkeypatch.setattr(sampled, "MAX_SIZES_BYTES", room)
    add = sampled.RoundingSizes.add
    monkeypatch.setattr(sampled.RoundingSizes, "add", lambda self, *given: (add(self, *given), kept.append(self.bytes)))
    again = rows()
    assert max(kept) <= room + 4 * 11 * 8  # what one operator rounds at the largest batch
    assert again.keys() == usual.keys()
    for place, row in again.items():
        assert row.status == usual[place].status == "pass"
        assert row.rounding_scale == pytest.approx(usual[place].rounding_scale, rel=0.02), place  # sizes have 8 bits
    export.to_onnx(lambda weights, x: fn(weights, x) * (1 + 1e-5), args, path, dynamic=DYNAMIC)
    assert {row.status for (_, case), row in rows().items() if "batch" in case} == {"fail"}


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


def test_another_version_may_train_by_backward() -> None:
    def by_func(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return w - 0.1 * torch.func.grad(lambda w: (x @ w).tanh().sum())(w)

    def by_backward(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        leaf = w.clone().requires_grad_()
        (x @ leaf).tanh().sum().backward()
        torch.optim.SGD([leaf], lr=0.1).step()
        return leaf

    verdict = export.verify(by_func, (torch.linspace(-1, 1, 8), X), against=by_backward, device="cpu")
    assert verdict.passed, verdict.table()


def test_both_branches_are_forced_and_one_that_is_wrong_is_found(tmp_path: Path) -> None:
    def fn(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.mean() > -100, lambda a: a * 2, lambda a: a.exp() + shift, (x,))

    path = tmp_path / "f.onnx"
    shift = torch.ones(8)
    export.to_onnx(fn, (X, shift), path, bake=(1,))
    verdict = export.verify(fn, (X, shift), path, bake=(1,))
    assert verdict.passed, verdict.table()
    assert {row.case for row in verdict.rows} == {"example", "forced true", "forced false"}
    (predicate,) = verdict.predicates
    assert predicate.taken is True
    assert predicate.margin == pytest.approx(100 + float(X.mean()), rel=1e-6)
    assert "in fn" in predicate.source
    model = onnx.load(path)
    edit("shift", set_first(1.01))(model)
    edited_files.save(model, path)
    broken = export.verify(fn, (X, shift), path, bake=(1,))
    assert {row.case for row in broken.rows if row.status == "fail"} == {"stored", "forced false"}


def test_a_predicate_inside_rounding_is_ambiguous(tmp_path: Path) -> None:
    # The sum is 0 in exact arithmetic; in float32 it is one rounding away from it.
    x = torch.tensor([0.1, 0.2, -0.3]).repeat(7)
    shift = torch.tensor(float(x.double().sum()))

    def fn(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > shift, lambda a: a * 2, lambda a: a * 3, (x,))

    eager, exact = bool(x.sum() > shift), bool(x.double().sum() > shift.double())
    export.to_onnx(fn, (x,), tmp_path / "f.onnx")
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
def swapped_inputs(model: onnx.ModelProto) -> None:
    values = [type(value).FromString(value.SerializeToString()) for value in model.graph.input]
    del model.graph.input[:]
    model.graph.input.extend(values[::-1])


def reversed_outputs(model: onnx.ModelProto) -> None:
    values = [type(value).FromString(value.SerializeToString()) for value in model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(values[::-1])


def renamed_input(model: onnx.ModelProto) -> None:
    model.graph.input[-1].name = "q"
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = "q" if name == "x" else name


def redeclared(model: onnx.ModelProto) -> None:
    model.graph.input[-1].type.tensor_type.shape.dim[1].dim_value = 9


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (swapped_inputs, "the file's inputs are"),
        (reversed_outputs, "the file's outputs are"),
        (renamed_input, "the file's inputs are"),
    ],
)
def test_the_order_and_the_names_of_inputs_and_outputs_are_judged(
    change: Callable[[onnx.ModelProto], None], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "f.onnx"
    export.to_onnx(network, (PARAMS, X), path)
    model = onnx.load(path)
    change(model)
    edited_files.save(model, path)
    verdict = export.verify(network, (PARAMS, X), path)
    assert verdict.status == "fail"
    assert {(row.leaf, row.case) for row in verdict.rows} == {("(all)", "interface")}
    assert reason in verdict.table()


def test_an_element_is_judged_by_its_own_scale_however_large_its_neighbours(tmp_path: Path) -> None:
    mask = torch.arange(8) >= 6

    def masked(x: torch.Tensor) -> torch.Tensor:
        return (x @ x.mT @ x).masked_fill(mask, -1e9)

    path = tmp_path / "f.onnx"
    export.to_onnx(lambda x: (x @ x.mT @ x * (1 + 2e-5)).masked_fill(mask, -1e9), (X,), path)
    assert export.verify(masked, (X,)).passed
    verdict = export.verify(masked, (X,), path)
    assert verdict.status == "fail"
    assert all((row.rounding_scale or 0.0) < 1e-4 for row in verdict.rows)


def test_infinities_that_eager_gives_are_right_and_others_are_not(tmp_path: Path) -> None:
    def masked(x: torch.Tensor) -> torch.Tensor:
        return x.masked_fill(torch.arange(8) > 5, -torch.inf)

    assert export.verify(masked, (X,)).passed
    path = tmp_path / "f.onnx"
    export.to_onnx(lambda x: x.masked_fill(torch.arange(8) > 5, -1e30), (X,), path)
    verdict = export.verify(masked, (X,), path)
    assert verdict.status == "fail"
    assert "where eager gives -inf" in verdict.table()


def test_an_overflow_of_the_functions_own_precision_is_compared_too(tmp_path: Path) -> None:
    x = torch.tensor([1.0, 2.0, 100.0])
    assert export.verify(torch.exp, (x,)).passed
    path = tmp_path / "f.onnx"
    export.to_onnx(lambda x: torch.where(x > 50, torch.full_like(x, 7.0), x.exp()), (x,), path)
    assert export.verify(torch.exp, (x,), path).status == "fail"


def test_a_constant_that_depends_on_the_dtype_is_the_same_in_both_precisions(tmp_path: Path) -> None:
    def guarded(x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=torch.finfo(x.dtype).eps).log()

    x = torch.tensor([0.0, 0.5, 1.0])
    assert export.verify(guarded, (x,)).passed
    path = tmp_path / "f.onnx"
    export.to_onnx(lambda x: x.clamp(min=1e-3).log(), (x,), path)
    assert export.verify(guarded, (x,), path).status == "fail"


def test_sizes_that_the_file_names_are_tried_where_none_are_given(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    export.to_onnx(lambda x: x.square().mean(), (X,), path, dynamic=({0: "batch"},))
    assert {row.case for row in export.verify(lambda x: x.square().mean(), (X,), path).rows} >= {"batch=5", "batch=7"}


def test_a_function_that_takes_another_path_when_it_is_recorded_fails() -> None:
    def two_faced(x: torch.Tensor) -> torch.Tensor:
        recorded = isinstance(x, torch._subclasses.fake_tensor.FakeTensor)
        return x * 1.01 if recorded else x

    verdict = export.verify(two_faced, (X,))
    assert verdict.status == "fail"
    assert "eager differs from its own recorded graph" in verdict.table()


def test_a_passing_verdict_removes_a_stale_reproduction(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    export.to_onnx(lambda x: x * 2, (X,), path)
    assert not export.verify(lambda x: x * 3, (X,), path).passed
    folder = tmp_path / "f.onnx.reproduction"
    assert folder.is_dir()
    assert export.verify(lambda x: x * 2, (X,), path).passed
    assert not folder.exists()


@pytest.mark.parametrize("name", ["file", "allow_pickle", "x"])
def test_arguments_may_have_any_name(name: str, tmp_path: Path) -> None:
    scope: dict[str, Any] = {}
    exec(f"def fn({name}):\n    return {name} * 2", scope)
    path = tmp_path / "f.onnx"
    export.to_onnx(scope["fn"], (X,), path)
    exec(f"def other({name}):\n    return {name} * 3", scope)
    verdict = export.verify(scope["other"], (X,), path)
    assert verdict.status == "fail"
    assert verdict.divergence is not None


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


def test_a_verdict_keeps_some_outputs_for_comparison_with_other_versions() -> None:
    x = torch.linspace(-2, 2, 1000, dtype=torch.float32)
    verdict = export.verify(lambda x: {"y": torch.sin(3 * x), "n": x.argmax()}, (x,), device="cpu")
    kept = {sample.leaf: sample for sample in verdict.outputs}
    assert list(kept) == ["out.y", "out.n"]
    y = kept["out.y"]
    assert len(y.values) == len(y.reference) == len(y.scales) == 256
    assert max(abs(a - b) / c for a, b, c in zip(y.values, y.reference, y.scales, strict=True)) < 8
    assert y.largest == pytest.approx(1, abs=1e-3)
    assert kept["out.n"].values == (999.0,)
    assert "outputs" not in verdict.to_dict()
    again = export.verify(lambda x: {"y": torch.sin(3 * x), "n": x.argmax()}, (x,), device="cpu")
    assert again.outputs == verdict.outputs


def test_the_repr_of_a_verdict_is_its_first_line() -> None:
    verdict = export.verify(torch.tanh, (torch.ones(3),), device="cpu")
    assert repr(verdict) == f"<Verdict {verdict.table().splitlines()[0]}>"


def test_a_value_may_lie_in_another_order_at_another_size() -> None:
    """At length 1 the padded tensor has other strides than where it was recorded, so the view there is none."""

    def heads(x: torch.Tensor) -> torch.Tensor:
        batch, _, length = x.shape
        y = F.silu(x).transpose(1, 2).reshape(batch, length, 2, 3) * 2
        y = F.pad(y, (0, 0, 0, 0, 0, -length % 4))
        return y.permute(0, 2, 1, 3).reshape(batch * 2, -1, 3).exp()

    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    verdict = export.verify(heads, (x,), dynamic=({0: "batch", 2: "length"},))
    assert verdict.passed, verdict.table()
    assert "batch=2, length=1" in {row.case for row in verdict.rows}
