"""A file keeps names, order and pytree structure: its metadata alone rebuilds the call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
import torch
import torch.nn.functional as F

import export
from export.graph.builder import Builder
from export.ops.registry import LOWERINGS, lowering
from export.trace.symbolic_sizes import Sizes


class Pair(NamedTuple):
    mean: torch.Tensor
    rest: list[torch.Tensor]


PARAMS = {
    "fc1": {"weight": torch.linspace(-1, 1, 12).reshape(4, 3), "bias": torch.linspace(0, 1, 4)},
    "fc0": {"weight": torch.linspace(1, -1, 8).reshape(2, 4)},
}
X = torch.linspace(-2, 2, 15).reshape(5, 3)


def network(params: Any, x: torch.Tensor) -> Any:
    h = F.linear(x, params["fc1"]["weight"], params["fc1"]["bias"]).relu()
    y = F.linear(h, params["fc0"]["weight"])
    return {"y": y, "pair": Pair(y.mean(), [h, x]), "nothing": None, "tuple": (params["fc1"]["bias"], 3)}


def graph(path: Path) -> onnx.GraphProto:
    return onnx.load(path).graph


def test_inputs_and_outputs_have_dotted_names_in_tree_order(tmp_path: Path) -> None:
    exported = export.to_onnx(network, (PARAMS, X), tmp_path / "f.onnx")
    assert exported.inputs == ("params.fc1.weight", "params.fc1.bias", "params.fc0.weight", "x")
    assert exported.outputs == ("out.y", "out.pair.mean", "out.pair.rest.0", "out.pair.rest.1", "out.tuple.0")
    assert tuple(value.name for value in graph(exported.path).input) == exported.inputs
    assert tuple(value.name for value in graph(exported.path).output) == exported.outputs
    assert exported.fixed == ()


def test_the_structure_comes_back_with_its_types(tmp_path: Path) -> None:
    out = export.to_onnx(network, (PARAMS, X), tmp_path / "f.onnx").load()(PARAMS, X)
    eager = network(PARAMS, X)
    assert list(out) == list(eager)
    assert isinstance(out["pair"], Pair)
    assert isinstance(out["pair"].rest, list)
    assert out["nothing"] is None
    assert out["tuple"][1] == 3
    torch.testing.assert_close(out["y"], eager["y"])
    assert torch.equal(out["pair"].rest[1], X)
    assert torch.equal(out["tuple"][0], PARAMS["fc1"]["bias"])


def test_arguments_match_by_key_and_not_by_the_order_of_keys(tmp_path: Path) -> None:
    f = export.to_onnx(network, (PARAMS, X), tmp_path / "f.onnx").load()
    turned = dict(reversed(PARAMS.items()))
    assert torch.equal(f(turned, X)["y"], f(PARAMS, X)["y"])


@pytest.mark.parametrize("position", [0, -2])
def test_baked_arguments_are_initializers_under_their_names(tmp_path: Path, position: int) -> None:
    exported = export.to_onnx(network, (PARAMS, X), tmp_path / "f.onnx", bake=(position,))
    assert exported.inputs == ("x",)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph(exported.path).initializer}
    assert set(exported.fixed) == {"params.fc1.weight", "params.fc1.bias", "params.fc0.weight"}
    assert (stored["params.fc1.weight"] == PARAMS["fc1"]["weight"].numpy()).all()
    f = exported.load()
    torch.testing.assert_close(f(X)["y"], network(PARAMS, X)["y"])
    assert f.signature == "f(x)"


def test_captured_tensors_are_named_after_their_variables(tmp_path: Path) -> None:
    shift = torch.ones(3)
    exported = export.to_onnx(lambda x: x + shift + torch.tensor(2.0), (X,), tmp_path / "f.onnx")
    assert set(exported.fixed) == {"closure.shift", "closure.0"}


def test_a_module_is_a_function_whose_parameters_keep_their_names(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh()).eval()
    exported = export.to_onnx(module, (X,), tmp_path / "f.onnx")
    assert set(exported.fixed) == {"closure.0.weight", "closure.0.bias"}
    torch.testing.assert_close(exported.load()(X), module(X).detach())


def test_unused_inputs_stay_inputs(tmp_path: Path) -> None:
    f = export.to_onnx(lambda used, unused: used * 2, (X, torch.zeros(2)), tmp_path / "f.onnx").load()
    assert [leaf.name for leaf in f.inputs] == ["used", "unused"]
    assert torch.equal(f(X, torch.ones(2)), X * 2)


def test_outputs_may_repeat_an_input_a_constant_or_each_other(tmp_path: Path) -> None:
    def fn(x: torch.Tensor) -> Any:
        y = x * 2
        return x, x, y, y, torch.ones(2), torch.full((3,), 2.0)

    out = export.to_onnx(fn, (X,), tmp_path / "f.onnx").load()(X)
    for own, eager in zip(out, fn(X), strict=True):
        assert torch.equal(own, eager)


def test_static_numbers_are_fixed_and_checked(tmp_path: Path) -> None:
    f = export.to_onnx(lambda x, scale, flag: x * scale if flag else x, (X, 3.0, True), tmp_path / "f.onnx").load()
    assert torch.equal(f(X, 3.0, True), X * 3)
    with pytest.raises(export.errors.ArgumentError, match=r"scale: was exported with the constant 3.0, got 4.0"):
        f(X, 4.0, True)


def test_an_argument_called_out_does_not_collide_with_the_outputs(tmp_path: Path) -> None:
    def fn(out: torch.Tensor) -> torch.Tensor:
        return out + 1

    exported = export.to_onnx(fn, (X,), tmp_path / "f.onnx")
    assert (exported.inputs, exported.outputs) == (("out",), ("output",))


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("example", [1, 5])
def test_a_dynamic_batch_is_any_batch(tmp_path: Path, batch: int, example: int) -> None:
    exported = export.to_onnx(
        network, (PARAMS, X[:example]), tmp_path / "f.onnx", dynamic=({"fc1": None}, {0: "batch"})
    )
    f = exported.load()
    x = torch.linspace(-1, 1, 3 * batch).reshape(batch, 3)
    assert f(PARAMS, x)["y"].shape == (batch, 2)
    torch.testing.assert_close(f(PARAMS, x)["pair"].mean, network(PARAMS, x)["pair"].mean)
    assert str(f.inputs[-1]) == "x: float32[batch, 3]"
    assert f.outputs[0].shape == ("batch", 2)


def test_two_dynamic_sizes_and_a_formula_of_them(tmp_path: Path) -> None:
    def fn(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x], 1).flatten() + y.sum()

    f = export.to_onnx(
        fn, (torch.ones(2, 3), torch.ones(3)), tmp_path / "f.onnx", dynamic=({0: "rows", 1: "columns"}, {0: "columns"})
    ).load()
    for rows, columns in ((1, 1), (4, 5)):
        assert torch.equal(
            f(torch.ones(rows, columns), torch.ones(columns)), fn(torch.ones(rows, columns), torch.ones(columns))
        )
    with pytest.raises(export.errors.ArgumentError, match=r"y: axis 0 \(columns\) is 4, but x has 5"):
        f(torch.ones(2, 5), torch.ones(4))


def test_nodes_know_their_block_and_source_line(tmp_path: Path) -> None:
    from pure import nets

    block = nets.create("simple_block", in_features=3, hidden_features=5, out_features=2)
    params, _ = block.init(torch.Generator().manual_seed(0))
    exported = export.to_onnx(block, (params, X), tmp_path / "f.onnx")
    gemm = next(node for node in graph(exported.path).node if node.op_type == "Gemm")
    notes = {entry.key: entry.value for entry in gemm.metadata_props}
    assert notes["path"] == "fc1"
    assert gemm.name.startswith("fc1.")
    assert "pure/" in notes["source"]
    assert not notes["source"].startswith("/")


def test_linear_layers_cost_one_node_and_no_shape_is_computed(tmp_path: Path) -> None:
    def fn(w: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, w, b).relu().unflatten(1, (2, 2)).flatten(1)

    exported = export.to_onnx(
        fn, (torch.ones(4, 3), torch.ones(4), X), tmp_path / "f.onnx", dynamic=(None, None, {0: "batch"})
    )
    assert [node.op_type for node in graph(exported.path).node] == ["Gemm", "Relu", "Reshape", "Reshape"]


def test_equal_computations_are_done_once(tmp_path: Path) -> None:
    exported = export.to_onnx(
        lambda x: (x.sin() + x.sin()) * x.shape[0] + x.shape[0], (X,), tmp_path / "f.onnx", dynamic=({0: "n"},)
    )
    kinds = [node.op_type for node in graph(exported.path).node]
    assert kinds.count("Sin") == 1
    assert kinds.count("Shape") == 1


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_the_opset_can_be_chosen(tmp_path: Path, opset: int) -> None:
    exported = export.to_onnx(lambda x: F.gelu(F.layer_norm(x, (3,))), (X,), tmp_path / "f.onnx", opset=opset)
    assert onnx.load(exported.path).opset_import[0].version == opset == exported.opset
    torch.testing.assert_close(exported.load()(X), F.gelu(F.layer_norm(X, (3,))))


def test_conditions_become_if_with_closures_and_nesting(tmp_path: Path) -> None:
    weight = torch.full((3,), 2.0)

    def fn(params: Any, x: torch.Tensor) -> torch.Tensor:
        scale = params["scale"]

        def inner(a: torch.Tensor) -> torch.Tensor:
            return torch.cond(a.max() > 10, lambda: a - scale, lambda: a * x.shape[0], ())

        return torch.cond(x.sum() > 0, inner, lambda a: a + weight, (x,))

    args = ({"scale": torch.tensor(3.0)}, X + 1)
    path = tmp_path / "f.onnx"
    export.to_onnx(fn, args, path, dynamic=(None, {0: "batch"}))
    verdict = export.verify(fn, args, path, dynamic=(None, {0: "batch"}))
    assert verdict.passed, verdict.table(full=True)
    f = export.load(path)
    for x, expected in ((X + 100, X + 97), (X + 1, 5 * (X + 1)), (X - 9, X - 7)):
        torch.testing.assert_close(f(args[0], x), expected)
    outer = [node for node in graph(path).node if node.op_type == "If"]
    assert len(outer) == 1
    assert sum(inner.op_type == "If" for branch in outer[0].attribute for inner in branch.g.node) == 1


@pytest.mark.parametrize(
    ("op", "fn"),
    [
        (torch.ops.aten.logcumsumexp.default, lambda x: x.sin().logcumsumexp(1) * 2),
        (torch.ops.aten.logcumsumexp.default, lambda x: x.logcumsumexp(1) + 1),
    ],
)
def test_operations_outside_the_table_go_through_onnxscript(op: Any, fn: Any, tmp_path: Path) -> None:
    assert op not in LOWERINGS
    exported = export.to_onnx(fn, (X,), tmp_path / "f.onnx", dynamic=({0: "batch"},))
    torch.testing.assert_close(exported.load()(X[:2]), fn(X[:2]))


def test_memory_by_strides_has_no_onnx_form(tmp_path: Path) -> None:
    with pytest.raises(export.errors.UnsupportedOpError, match="by strides"):
        export.to_onnx(lambda x: x.mT.as_strided((2, 2), (1, 2)), (X,), tmp_path / "f.onnx")


@pytest.mark.parametrize("first", ["import export.verdict", "from export.verdict.verification import verify"])
def test_export_verify_is_the_function_however_it_was_imported(first: str) -> None:
    code = f"{first}\nimport export\nassert callable(export.verify), export.verify\nassert callable(export.to_onnx)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=True)


def test_a_file_holds_no_address_in_memory(tmp_path: Path) -> None:
    export.to_onnx(lambda x: x * x.shape[0] ** 0.5, (X,), tmp_path / "f.onnx", dynamic=({0: "batch"},))
    assert b" at 0x" not in (tmp_path / "f.onnx").read_bytes()


def test_names_of_large_constants_do_not_depend_on_addresses_in_memory() -> None:
    g = Builder(Sizes(), 20, lowering)
    large = (torch.full((100,), i, dtype=torch.bfloat16) for i in range(9))
    assert [g.tensor_constant(tensor).name for tensor in large] == [f"constant.{i}" for i in range(9)]
