"""The bytes that a file keeps alive are those of ONNX Runtime's own counters, node by node, and few."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch.func import grad

import export
from export.compiler import ordered_session
from export.footprint.graph_values import graph_values
from export.footprint.kernel_memory import IN_PLACE, VIEWS, workspace
from export.footprint.lifetimes import alive_at, lifetimes, peak
from export.footprint.node_order import recorded_order
from export.runtime import sessions
from pure import nets

CPU = sessions.Choice("cpu", "asked for")
ROUNDING = 256
"""Bytes that ONNX Runtime's arena rounds up to."""


def profile(model: onnx.ModelProto, folder: Path, *, as_it_is: bool = True) -> list[dict[str, Any]]:
    """Run a model on random inputs, and return ONNX Runtime's counters of each node, in the order in which they ran."""
    options = sessions.session_options(CPU, b"")
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    if as_it_is:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feed = {value.name: rng.uniform(0.1, 1.0, value.shape).astype(np.float32) for value in session.get_inputs()}
    session.run(None, feed)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [
        {"name": event["name"].removesuffix("_kernel_time"), **event["args"]}
        for event in events
        if event["name"].endswith("_kernel_time")
    ]


def model_of(nodes: Sequence[onnx.NodeProto], inputs: dict[str, Sequence[int]], constants: Any = ()) -> onnx.ModelProto:
    """A model whose result is the maximum of the value y."""
    last = [helper.make_node("Cos", ["y"], ["z"], name="reader"), helper.make_node("Size", ["z"], ["out"], name="end")]
    graph = helper.make_graph(
        [*nodes, *last],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("out", TensorProto.INT64, ())],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


MAP = (4, 64, 32)
ALONE = sorted((IN_PLACE | VIEWS | {"Neg", "Sqrt", "Exp", "Erf", "Abs", "Gelu"}) - {"Cast"})


@pytest.mark.parametrize("kind", ALONE)
def test_what_lies_on_its_input_takes_no_memory(kind: str, tmp_path: Path) -> None:
    shapes = {"Reshape": [64, 4, 32], "Unsqueeze": [0], "Squeeze": [0]}
    source, more = ("b", [helper.make_node("Unsqueeze", ["a", "s"], ["b"])]) if kind == "Squeeze" else ("a", [])
    given = [source, "s"] if kind in shapes else [source]
    nodes = [helper.make_node("Sin", ["x"], ["a"]), *more, helper.make_node(kind, given, ["y"], name="node")]
    model = model_of(nodes, {"x": MAP}, [("s", np.array(shapes[kind]))] if kind in shapes else [])
    (counted,) = (node for node in profile(model, tmp_path) if node["name"] == "node")
    steps = lifetimes(model.graph.node, graph_values(model.graph), 1)
    (step,) = (step for step in steps if step.node.name == "node")
    assert sum(step.made.values()) == int(counted["mem_requested_in_use_delta"])
    assert bool(step.made) == (kind not in IN_PLACE | VIEWS)


@pytest.mark.parametrize("kind", ["Add", "Mul", "Sub", "Div", "Max", "Pow"])
def test_binary_operators_never_write_over_an_input(kind: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("Sin", ["x"], ["a"]), helper.make_node(kind, ["a", "x"], ["y"], name="node")]
    counted = profile(model_of(nodes, {"x": MAP}), tmp_path)
    (found,) = (node for node in counted if node["name"] == "node")
    assert int(found["mem_requested_in_use_delta"]) == int(found["output_size"])


WORKSPACES: dict[str, Any] = {
    "many positions": ("Conv", (2, 16, 32, 32), (16, 16, 3, 3), {"pads": [1] * 4}),
    "few positions": ("Conv", (2, 16, 4, 4), (64, 16, 3, 3), {"pads": [1] * 4}),
    "a product": ("Conv", (2, 16, 32, 32), (16, 16, 1, 1), {}),
    "a strided product": ("Conv", (2, 16, 32, 32), (16, 16, 1, 1), {"strides": [2, 2]}),
    "groups": ("Conv", (2, 16, 32, 32), (16, 1, 3, 3), {"pads": [1] * 4, "group": 16}),
    "transposed": ("ConvTranspose", (2, 16, 8, 8), (16, 32, 3, 3), {"pads": [1] * 4}),
    "transposed groups": ("ConvTranspose", (2, 16, 8, 8), (16, 4, 3, 3), {"pads": [1] * 4, "group": 4}),
}


@pytest.mark.parametrize("case", WORKSPACES)
def test_a_kernels_workspace_is_what_it_takes(case: str, tmp_path: Path) -> None:
    kind, x, weight, attributes = WORKSPACES[case]
    model = model_of([helper.make_node(kind, ["x", "w"], ["y"], name="node", **attributes)], {"x": x, "w": weight})
    counted, *_ = profile(model, tmp_path)
    expected = workspace(model.graph.node[0], graph_values(model.graph).shapes, 1)
    found = int(counted["mem_in_use_peak"]) - int(counted["mem_bytes_in_use"])
    assert abs(found - expected) < ROUNDING or expected <= found < 2 * expected, (found, expected)  # chunks are halved


def slope_of_network() -> tuple[Any, Any]:
    block = nets.resnet20()
    generator = torch.Generator().manual_seed(0)
    params, state = block.init(generator)
    return grad(lambda params, x: block(params, x, state).square().mean()), (
        params,
        torch.randn(8, 3, 32, 32, generator=generator),
    )


@pytest.fixture(scope="module")
def recorded() -> tuple[onnx.ModelProto, onnx.ModelProto, int]:
    """What `jit` opens for a network's gradient: the recorded model, the optimised one in its order, and the peak."""
    seen: list[onnx.ModelProto] = []
    fn, args = slope_of_network()
    with pytest.MonkeyPatch.context() as patch:
        opened = sessions.open_session

        def watched(model: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(model, bytes):
                seen.append(onnx.ModelProto.FromString(model))
            return opened(model, *args, **kwargs)

        patch.setattr(sessions, "open_session", watched)
        compiled = export.jit(fn, device="cpu")
        compiled(*args)
    first, last = seen
    needed = compiled.compilations()[0].peak_bytes
    assert needed is not None
    assert "memory: " in compiled.report()
    return first, last, needed


def test_live_bytes_are_those_that_onnx_runtime_counts(
    recorded: tuple[onnx.ModelProto, onnx.ModelProto, int], tmp_path: Path
) -> None:
    _, model, needed = recorded
    for tensor in model.graph.initializer:  # their values are gone with the file beside the model
        if tensor.external_data:
            size = int(np.prod(tensor.dims)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            tensor.raw_data, tensor.data_location = bytes(size), TensorProto.DEFAULT
            del tensor.external_data[:]
    counted = profile(model, tmp_path)
    assert [node["name"] for node in counted] == [node.name for node in model.graph.node], "the order is kept"
    steps = lifetimes(model.graph.node, graph_values(model.graph), 1)
    before = int(counted[0]["mem_bytes_requested_in_use"]) - int(counted[0]["mem_requested_in_use_delta"])
    for step, node in zip(steps, counted, strict=True):
        live = int(node["mem_bytes_requested_in_use"]) - before
        assert abs(step.live - step.workspace - live) <= ROUNDING * 64, node["name"]
    assert sum(alive_at(steps, len(steps) - 1).values()) >= graph_values(model.graph).total(
        value.name for value in model.graph.output
    )
    assert needed == pytest.approx(peak(steps), rel=0.01)


def test_a_gradient_runs_in_the_order_that_needs_less(
    recorded: tuple[onnx.ModelProto, onnx.ModelProto, int], tmp_path: Path
) -> None:
    first, last, needed = recorded
    session, own = first.SerializeToString(), tmp_path / "own.onnx"
    sessions.open_session(session, CPU, saved=own)
    graph = onnx.load(own, load_external_data=False).graph
    default = peak(lifetimes(graph.node, graph_values(graph), 1))
    assert needed < 0.8 * default
    assert sorted(node.name for node in last.graph.node) == sorted(node.name for node in graph.node)


def test_nothing_is_opened_twice_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, models = sessions.open_session, list[Any]()

    def watched(model: Any, *args: Any, **kwargs: Any) -> Any:
        models.append(model)
        return opened(model, *args, **kwargs)

    monkeypatch.setattr(sessions, "open_session", watched)
    export.jit(lambda x: x.sin() + 1, device="cpu")(torch.ones(3))
    assert len(models) == 1


def test_large_weights_are_not_written_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered_session, "_MAX_STORED_BYTES", 1000)
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    compiled = export.jit(lambda w, x: x @ w, bake=(0,), device="cpu")
    torch.testing.assert_close(compiled(weight, torch.ones(2, 64)), torch.ones(2, 64) @ weight)
    assert compiled.compilations()[0].peak_bytes is None


def test_a_new_node_comes_right_before_its_reader() -> None:
    make = helper.make_node
    nodes = [make("Neg", ["x"], ["new"]), make("Abs", ["x"], ["a"]), make("Add", ["a", "new"], ["b"])]
    assert [node.output[0] for node in recorded_order(nodes, {"a": 0, "b": 1})] == ["a", "new", "b"]
