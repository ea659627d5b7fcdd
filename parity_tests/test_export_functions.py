"""Repeated blocks are one ONNX function, called once a block, and nothing else about a file changes for that."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.func import grad

import export
from export.graph.functions.function_calls import DOMAIN
from export.graph.functions.function_inlining import inline
from export.graph.onnx_export import count_nodes
from parity_tests import edited_files
from pure import Activation, Function, Linear, Residual, Sequential, nets, tags, tree
from pure.block import Block

DEPTH = 4
X = torch.linspace(-2, 2, 3 * 6).reshape(3, 6)
BATCH = (None, {0: "batch"})


def residual(features: int = 6, hidden: int = 8) -> Block:
    return Residual(
        branch=Sequential(fc1=Linear(features, hidden), act=Activation("gelu"), fc2=Linear(hidden, features))
    )


def chain(depth: int = DEPTH) -> tuple[Block, Any]:
    block = Sequential(*[residual()] * depth)
    return block, block.init(torch.Generator().manual_seed(0))[0]


def notes(node: onnx.NodeProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in node.metadata_props}


def calls(model: onnx.ModelProto) -> dict[str, list[str]]:
    """{function: names of the nodes that call it}."""
    found: dict[str, list[str]] = {function.name: [] for function in model.functions}
    for node in model.graph.node:
        if node.domain == DOMAIN:
            found[node.op_type].append(node.name)
    return found


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node if node.op_type != "Constant")


def both(fn: Any, args: Any, folder: Path, **options: Any) -> tuple[export.Exported, export.Exported]:
    """The same export with and without functions."""
    return (
        export.to_onnx(fn, args, folder / "functions.onnx", **options),
        export.to_onnx(fn, args, folder / "flat.onnx", functions=False, **options),
    )


def test_a_chain_of_equal_blocks_is_one_function(tmp_path: Path) -> None:
    block, params = chain()
    exported, flat = both(block, (params, X), tmp_path)
    model = onnx.load(exported.path)
    assert exported.functions == ("block",)
    assert flat.functions == ()
    assert calls(model) == {"block": ["0", "1", "2", "3"]}
    assert len(model.graph.node) == DEPTH
    assert exported.nodes == flat.nodes == DEPTH * 4
    (function,) = model.functions
    assert [node.name for node in function.node] == [
        "branch.fc1.addmm.Gemm", "branch.act.gelu.Gelu", "branch.fc2.addmm_1.Gemm", "add.Add",
    ]  # fmt: skip
    assert list(function.input) == [
        "x", "branch.fc1.weight", "branch.fc1.bias", "branch.fc2.weight", "branch.fc2.bias",
    ]  # fmt: skip
    assert list(model.graph.node[2].input)[1:] == [f"params.2.{name}" for name in function.input[1:]]
    assert exported.inputs == flat.inputs
    assert torch.equal(exported.load()(params, X), flat.load()(params, X))


def test_a_body_keeps_lines_and_paths_and_a_call_its_own(tmp_path: Path) -> None:
    block, params = chain()
    model = onnx.load(export.to_onnx(block, (params, X), tmp_path / "f.onnx").path)
    inner = {node.name: notes(node) for node in model.functions[0].node}
    assert inner["branch.fc2.addmm_1.Gemm"]["path"] == "branch.fc2"
    assert all("pure/" in about["source"] for about in inner.values())
    assert [notes(node)["path"] for node in model.graph.node] == ["0", "1", "2", "3"]


def test_inlining_gives_the_flat_graph_back(tmp_path: Path) -> None:
    block, params = chain()
    paths = both(block, (params, X), tmp_path, dynamic=BATCH)
    ours, flat = (inline(onnx.load(exported.path)) for exported in paths)
    onnx.checker.check_model(ours, full_check=True)
    assert not ours.functions
    for node, expected in zip(ours.graph.node, flat.graph.node, strict=True):
        assert notes(node) == notes(expected)
        assert (node.op_type, len(node.input), node.attribute) == (
            expected.op_type, len(expected.input), expected.attribute,
        )  # fmt: skip
    types = [
        sorted(value.type.SerializeToString(deterministic=True) for value in model.graph.value_info)
        for model in (ours, flat)
    ]
    assert types[0] == types[1]
    assert {tensor.name for tensor in ours.graph.initializer} == {tensor.name for tensor in flat.graph.initializer}


@pytest.mark.parametrize("opset", [18, 20, 23])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_verdict_is_on_the_file_with_functions(opset: int, dtype: torch.dtype, tmp_path: Path) -> None:
    block, params = chain()
    params, x = tree.cast(params, dtype), X.to(dtype)
    path = tmp_path / "f.onnx"
    assert export.to_onnx(block, (params, x), path, dynamic=BATCH, opset=opset).functions
    verdict = export.verify(block, (params, x), path, dynamic=BATCH)
    assert verdict.passed, verdict.table(full=True)


def test_a_stage_of_a_network_is_a_function_and_its_first_block_is_not(tmp_path: Path) -> None:
    block = nets.create("resnet50", num_classes=3, in_channels=1)
    params, state = block.init(torch.Generator().manual_seed(0))
    x = torch.linspace(-1, 1, 32 * 32).reshape(1, 1, 32, 32)
    exported, flat = both(lambda params, state, x: block(params, x, state), (params, state, x), tmp_path, bake=(0, 1))
    assert calls(onnx.load(exported.path)) == {
        "layer1_block": ["layer1.1", "layer1.2"],
        "layer2_block": ["layer2.1", "layer2.2", "layer2.3"],
        "layer3_block": [f"layer3.{i}" for i in range(1, 6)],
        "layer4_block": ["layer4.1", "layer4.2"],
    }
    assert exported.nodes == flat.nodes
    assert exported.fixed == flat.fixed
    one, other = exported.load("cpu"), flat.load("cpu")
    assert Counter(one.placement.values()) == Counter(other.placement.values())
    assert torch.equal(one(x), other(x))


def test_blocks_of_other_sizes_share_no_function(tmp_path: Path) -> None:
    block = Sequential(residual(6, 8), residual(6, 9), residual(6, 8), residual(6, 10))
    params = block.init(torch.Generator().manual_seed(0))[0]
    model = onnx.load(export.to_onnx(block, (params, X), tmp_path / "f.onnx").path)
    assert calls(model) == {"block": ["0", "2"]}


def test_blocks_with_other_constants_share_no_function(tmp_path: Path) -> None:
    def scaled(factor: float) -> Block:
        return Function(lambda params, x: ((x * factor).sin() + 1).cos().tanh())

    block = Sequential(scaled(2.0), scaled(3.0), scaled(2.0))
    model = onnx.load(export.to_onnx(lambda x: block({}, x), (X,), tmp_path / "f.onnx").path)
    assert calls(model) == {"block": ["0", "2"]}
    assert sum(node.op_type == "Constant" for node in model.functions[0].node) == 2
    names = {tensor.name for tensor in model.graph.initializer}
    assert names == {name for node in model.graph.node for name in node.input if name.startswith("constant.")}


def test_small_blocks_stay_as_they_are(tmp_path: Path) -> None:
    block = Sequential(*[Linear(6, 6)] * 3)
    params = block.init(torch.Generator().manual_seed(0))[0]
    exported = export.to_onnx(block, (params, X), tmp_path / "f.onnx")
    assert exported.functions == ()
    assert [opset.domain for opset in onnx.load(exported.path).opset_import] == [""]


def test_a_block_that_is_left_and_entered_again_stays_as_it_is(tmp_path: Path) -> None:
    def fn(x: Tensor) -> Tensor:
        halves: list[Tensor] = []
        for name in ("0", "1"):
            with tags.scope(name):
                halves.append((x + 1).sin().exp())
            x = x * 2
        x = sum(halves, x)
        for name in ("0", "1"):
            with tags.scope(name):
                x = (x.cos() + 3).tanh()
        return x

    exported = export.to_onnx(fn, (X,), tmp_path / "f.onnx")
    torch.testing.assert_close(exported.load()(X), fn(X))
    assert exported.functions == ()


def test_a_mask_that_the_first_block_makes_for_all_is_outside(tmp_path: Path) -> None:
    layer = nets.gpt2_block(8, 2)
    block = Sequential(*[layer] * 3)
    params = block.init(torch.Generator().manual_seed(0))[0]
    x = torch.linspace(-1, 1, 2 * 5 * 8).reshape(2, 5, 8)
    exported = export.to_onnx(block, (params, x), tmp_path / "f.onnx")
    assert calls(onnx.load(exported.path)) == {"block": ["0", "1", "2"]}
    assert export.verify(block, (params, x), exported.path).passed


@pytest.mark.parametrize("depth", [3, 5])
def test_a_gradient_has_a_function_for_its_backward_blocks(depth: int, tmp_path: Path) -> None:
    block, params = chain(depth)

    def loss(params: Any, x: Tensor) -> Tensor:
        return block(params, x).square().mean()

    exported = export.to_onnx(grad(loss), (params, X), tmp_path / "f.onnx", dynamic=BATCH)
    model = onnx.load(exported.path)
    inner = [str(i) for i in range(1, depth)]  # the first one has no gradient of x to compute
    assert calls(model) == {"block": inner, "block_backward": [f"{i}.backward" for i in inner[::-1]]}
    backward = next(function for function in model.functions if function.name == "block_backward")
    operations = [notes(node) for node in backward.node if node.op_type != "Constant"]
    assert {about["derivative"] for about in operations} == {"1"}
    assert {about["path"] for about in operations} == {"branch.fc1", "branch.act", "branch.fc2"}
    assert all("pure/" in about["source"] for about in operations)
    verdict = export.verify(grad(loss), (params, X), exported.path, dynamic=BATCH)
    assert verdict.passed, verdict.table(full=True)


def test_every_node_of_a_block_and_of_its_gradient_knows_block_and_line(tmp_path: Path) -> None:
    block, params = chain()
    fn = grad(lambda params, x: block(params, x).square().sum())
    model = inline(onnx.load(export.to_onnx(fn, (params, X), tmp_path / "f.onnx").path))
    weights = {value.name for value in model.graph.input} - {"x"}
    for node in model.graph.node:
        about = notes(node)
        assert about.get("source"), node
        if weights & set(node.input):
            assert about["path"].split(".")[0] in {"0", "1", "2", "3"}
            assert node.name.startswith(about["path"])
    outputs = {name: notes(node) for node in model.graph.node for name in node.output}
    for name in weights:
        about = outputs[name.replace("params.", "out.", 1)]
        assert (name.removeprefix("params.").rpartition(".")[0], about["derivative"]) == (about["path"], "1")


def test_second_derivatives_are_counted(tmp_path: Path) -> None:
    def fn(x: Tensor) -> Tensor:
        with tags.scope("inner"):
            return (x.sin() ** 3).sum()

    curvature = grad(lambda x: grad(fn)(x).square().sum())
    path = tmp_path / "f.onnx"
    export.to_onnx(curvature, (X,), path)
    assert export.verify(curvature, (X,), path).passed
    found = Counter(notes(node).get("derivative", "") for node in onnx.load(path).graph.node)
    assert set(found) == {"", "1", "2"}


def test_conditions_inside_blocks(tmp_path: Path) -> None:
    def gated(params: Any, x: Tensor) -> Tensor:
        def quiet(v: Tensor) -> Tensor:
            return v - params["shift"]

        return torch.cond(x.sum() > 0, lambda v: (v * params["scale"]).tanh() + v.mean(), quiet, (x,)).sin() + x

    def init(generator: torch.Generator, dtype: torch.dtype, device: Any) -> Any:
        return {name: torch.rand(6, generator=generator, dtype=dtype) for name in ("scale", "shift")}

    block = Sequential(*[Function(gated, init)] * 3)
    params = block.init(torch.Generator().manual_seed(0))[0]
    path = tmp_path / "f.onnx"
    exported = export.to_onnx(block, (params, X + 1), path, dynamic=BATCH)
    model = onnx.load(path)
    assert calls(model) == {"block": ["0", "1", "2"]}
    assert [node.op_type for node in model.functions[0].node].count("If") == 1
    verdict = export.verify(block, (params, X + 1), path, dynamic=BATCH)
    assert verdict.passed, verdict.table(full=True)
    forced = {row.case.split()[-1] for row in verdict.rows if row.case.startswith("forced")}
    assert forced == {"true", "false"}
    assert len(verdict.predicates) == 3
    assert exported.nodes == count_nodes(inline(model).graph)
    assert exported.load()(params, X - 9).shape == X.shape


def test_a_body_called_twice_under_one_path_is_one_unit(tmp_path: Path) -> None:
    tied = residual()
    params = tied.init(torch.Generator().manual_seed(0))[0]
    block = Sequential(*[Function(lambda params, x: tied(params, tied(params, x)), tied.init)] * 2)
    both_params = {"0": params, "1": params}
    exported = export.to_onnx(block, (both_params, X), tmp_path / "f.onnx")
    assert calls(onnx.load(exported.path)) == {"block": ["0", "1"]}
    torch.testing.assert_close(exported.load()(both_params, X), block(both_params, X))


def placed(path: Path, x: np.ndarray[Any, Any]) -> dict[str, str]:
    """{readable name of a node that ONNX Runtime runs: the weight it reads}, from ONNX Runtime's own graph."""
    from export.graph.functions.function_calls import read_calls

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(path.with_suffix(".optimised.onnx"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    readable = read_calls(path).readable
    return {
        readable(node.name): name
        for node in onnx.load(options.optimized_model_filepath).graph.node
        for name in node.input
        if name.endswith(".weight")
    }


def test_placement_names_nodes_by_their_block(tmp_path: Path) -> None:
    """Two functions whose calls alternate, so that a wrong count of calls would show in the weights."""
    narrow, wide = residual(6, 8), residual(6, 9)
    block = Sequential(narrow, wide, wide, narrow, wide, narrow, narrow)
    params = block.init(torch.Generator().manual_seed(0))[0]
    exported, flat = both(block, (params, X), tmp_path)
    assert set(exported.functions) == {"block", "block_2"}
    f, plain = exported.load("cpu"), flat.load("cpu")
    blocks = {str(i) for i in range(7)}
    assert {name.split(".")[0] for name in f.placement} == {name.split(".")[0] for name in plain.placement} == blocks
    assert f.placement.keys() == {node.name for node in inline(onnx.load(exported.path)).graph.node}
    reads = placed(exported.path, X.numpy())
    assert len(reads) == 14
    for name, weight in reads.items():
        assert weight == f"params.{'.'.join(name.split('.')[:3])}.weight"


def test_a_missing_kernel_in_a_function_names_block_and_line(tmp_path: Path) -> None:
    def conv(params: Any, x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x.sin().cos().tanh(), params["weight"]).exp()

    def init(generator: torch.Generator, dtype: torch.dtype, device: Any) -> Any:
        return {"weight": torch.ones(2, 2, 1, 1, dtype=dtype)}

    block = Sequential(stem=Sequential(*[Function(conv, init)] * 2))
    params = block.init(torch.Generator().manual_seed(0), torch.float64)[0]
    path = tmp_path / "f.onnx"
    x = torch.ones(1, 2, 3, 3, dtype=torch.float64)
    assert export.to_onnx(block, (params, x), path).functions == ("stem_block",)
    with pytest.raises(export.errors.UnsupportedOpError) as caught:
        export.load(path, device="cpu")
    assert (caught.value.op, caught.value.dtype) == ("Conv", "float64")
    assert caught.value.path in {"stem.0", "stem.1"}
    assert "test_export_functions.py" in caught.value.source
    assert f"'{caught.value.path}.conv2d" in str(caught.value) or f"'{caught.value.path}.conv" in str(caught.value)


def test_the_first_difference_is_found_inside_a_function(tmp_path: Path) -> None:
    block, params = chain()
    path = tmp_path / "f.onnx"
    export.to_onnx(block, (params, X), path, bake=(0,))
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "params.2.branch.fc2.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    edited_files.save(model, path)
    verdict = export.verify(block, (params, X), path, bake=(0,))
    assert not verdict.passed
    assert verdict.divergence is not None
    assert verdict.divergence.path == "2.branch.fc2"
    assert verdict.divergence.op == "Gemm"
    assert verdict.divergence.node.startswith("2.branch.fc2.")
    assert "pure/" in verdict.divergence.source


def test_a_wrong_body_is_found_at_its_first_call(tmp_path: Path) -> None:
    block, params = chain()
    path = tmp_path / "f.onnx"
    export.to_onnx(block, (params, X), path)
    model = onnx.load(path)
    next(node for node in model.functions[0].node if node.op_type == "Add").op_type = "Sub"
    edited_files.save(model, path)
    verdict = export.verify(block, (params, X), path)
    assert verdict.divergence is not None
    assert (verdict.divergence.path, verdict.divergence.op) == ("0", "Sub")


def test_jit_compiles_a_flat_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    from export.runtime import sessions

    seen: list[onnx.ModelProto] = []
    opened = sessions.open_session

    def watched(model: Any, *args: Any, **options: Any) -> Any:
        seen.append(onnx.load_model_from_string(model))
        return opened(model, *args, **options)

    monkeypatch.setattr(sessions, "open_session", watched)
    block, params = chain()
    torch.testing.assert_close(export.jit(block)(params, X), block(params, X))
    (model,) = seen
    assert not model.functions
    assert kinds(model) == {"Gemm": 2 * DEPTH, "Gelu": DEPTH, "Add": DEPTH}


def test_layers_that_differ_in_their_number_of_inputs_stay_apart(tmp_path: Path) -> None:
    def dense(x: Tensor) -> Tensor:
        features = [x]
        for i in range(4):
            with tags.scope(f"layer{i % 2}.{i}"):
                features.append(torch.cat(features, 1).sin().cos().exp()[:, :2].tanh())
        return torch.cat(features, 1)

    exported = export.to_onnx(dense, (X,), tmp_path / "f.onnx")
    assert exported.functions == ()
    torch.testing.assert_close(exported.load()(X), dense(X))


def test_the_same_function_gives_the_same_file(tmp_path: Path) -> None:
    block, params = chain()
    args = (params, X)
    one, two = (export.to_onnx(grad(lambda p, x: block(p, x).sum()), args, tmp_path / f"{i}.onnx") for i in (1, 2))
    assert one.path.read_bytes() == two.path.read_bytes()
