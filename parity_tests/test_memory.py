"""The bytes that a file keeps alive are those of ONNX Runtime's own counters, node by node, and few."""

import json
import subprocess
import sys
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
import pure
from export.compiler import ordered_session
from export.compiler.rewriting import rewrite
from export.errors import ArgumentError, LoadError
from export.footprint import measuring
from export.footprint.byte_text import in_mib
from export.footprint.graph_values import graph_values
from export.footprint.kernel_memory import IN_PLACE, VIEWS, workspace
from export.footprint.lifetimes import alive_at, lifetimes, peak
from export.footprint.node_order import recorded_order
from export.runtime import sessions
from pure import nets
from pure.block import Block
from pure.nets.convolutional.unet import unet
from pure.skips import pre_norm

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
    model = onnx.load(own, load_external_data=False)
    rewrite(model)
    graph = model.graph
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
    monkeypatch.setattr(ordered_session, "MAX_STORED_BYTES", 1000)
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    compiled = export.jit(lambda w, x: x @ w, bake=(0,), device="cpu")
    torch.testing.assert_close(compiled(weight, torch.ones(2, 64)), torch.ones(2, 64) @ weight)
    assert compiled.compilations()[0].peak_bytes is None


def test_a_new_node_comes_right_before_its_reader() -> None:
    make = helper.make_node
    nodes = [make("Neg", ["x"], ["new"]), make("Abs", ["x"], ["a"]), make("Add", ["a", "new"], ["b"])]
    assert [node.output[0] for node in recorded_order(nodes, {"a": 0, "b": 1})] == ["a", "new", "b"]


def small_networks() -> dict[str, Any]:
    """Gradients of small networks, by name, with their example arguments."""
    generator = torch.Generator().manual_seed(0)
    attention = pre_norm(pure.Attention(64, 4, fused=True), pure.LayerNorm(64))
    mlp = pure.Sequential(fc1=pure.Linear(64, 128), act=pure.Activation("gelu"), fc2=pure.Linear(128, 64))
    layer = pure.Sequential(attention=attention, mlp=pre_norm(mlp, pure.LayerNorm(64)))
    blocks: dict[str, tuple[Block, tuple[int, ...]]] = {
        "resnet": (nets.resnet20(), (2, 3, 32, 32)),
        "densenet": (nets.densenet(12, (3, 3), 24, num_classes=10), (2, 3, 64, 64)),
        "transformer": (pure.Sequential(*[layer] * 3), (2, 64, 64)),
        "unet": (unet(3, 2, (16, 32, 64)), (2, 3, 64, 64)),
    }
    found = {}
    for name, (block, shape) in blocks.items():
        params, state = block.init(generator)

        def loss(params: Any, x: torch.Tensor, block: Any = block, state: Any = state) -> torch.Tensor:
            y: torch.Tensor = block(params, x, state)
            return y.square().mean()

        found[name] = grad(loss), (params, torch.randn(shape, generator=generator))
    return found


BATCHES = {"resnet": 64, "densenet": 64, "transformer": 192, "unet": 8}
"""Batches that take hundreds of MiB, beside which a process's own few do not count."""

MEASURE = """
import sys, numpy as np
import onnxruntime
from export.runtime import sessions
path, *sizes = sys.argv[1:]
sizes = dict(pair.split("=") for pair in sizes)
session = sessions.open_session(path, sessions.Choice("cpu", "asked for"), spinning=False)
def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))
shapes = {v.name: [int(sizes.get(d, d)) for d in v.shape] for v in session.get_inputs()}
feed = {name: onnxruntime.OrtValue.ortvalue_from_numpy(np.full(s, 0.1, np.float32)) for name, s in shapes.items()}
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
for _ in range(2):
    session.run_with_ort_values([v.name for v in session.get_outputs()], feed)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux says what a process's peak was")
@pytest.mark.parametrize("name", ["resnet", "densenet", "transformer", "unet"])
def test_the_bytes_of_a_file_are_those_of_a_process(name: str, tmp_path: Path) -> None:
    fn, args = small_networks()[name]
    path = tmp_path / "file.onnx"
    export.to_onnx(fn, args, path, dynamic=(None, {0: "batch"}))
    batch = BATCHES[name]
    used = export.memory(path, sizes={"batch": batch})
    assert not used.unknown
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), f"batch={batch}"], capture_output=True, text=True, check=True
    )
    measured = int(done.stdout)
    assert used.held_bytes == pytest.approx(measured, rel=0.1), used.summary()


CALLS = """
import random, sys, torch, export
from torch.func import grad
from pure import nets
kind, folder = sys.argv[1:]
block = nets.densenet(4, (2, 2), 8, num_classes=4)
params, state = block.init(torch.Generator().manual_seed(0))
slope = grad(lambda params, x: block(params, x, state).square().mean())
if kind == "load":
    args = params, torch.randn(3, 3, 16, 16)
    export.to_onnx(slope, args, folder + "/f.onnx", dynamic=(None, {0: "batch"}))
    call, largest = export.load(folder + "/f.onnx", device="cpu"), 64
else:
    call, largest = export.jit(slope), 4
sizes = random.Random(0)
for number in range(1, 1001):
    call(params, torch.randn(sizes.randint(1, largest), 3, 16, 16))
    if number in (300, 1000):
        with open("/proc/self/status") as file:
            print(next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what a process holds")
@pytest.mark.parametrize("kind", ["load", "jit"])
def test_a_thousand_calls_with_changing_batch_sizes_take_no_more_memory(kind: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CALLS, kind, str(tmp_path)], capture_output=True, text=True, check=True
    )
    early, late = map(int, done.stdout.split())
    assert late - early < 8 * 2**20, f"{in_mib(late - early)} more after 1,000 calls than after 300"


def test_a_file_runs_in_the_order_that_is_followed(tmp_path: Path) -> None:
    fn, args = small_networks()["resnet"]
    path = tmp_path / "file.onnx"
    export.to_onnx(fn, args, path, functions=False)
    counted = profile(onnx.load(path), tmp_path, as_it_is=False)
    used = export.memory(path)
    assert [node["name"] for node in counted] == [node.name for node in used.nodes]
    before = int(counted[0]["mem_bytes_requested_in_use"]) - int(counted[0]["mem_requested_in_use_delta"])
    for node, ours in zip(counted, used.nodes, strict=True):
        live = int(node["mem_bytes_requested_in_use"]) - before
        assert abs(ours.live_bytes - ours.workspace_bytes - live) <= ROUNDING * 64, ours.name


def test_sizes_are_named_as_the_file_names_them(tmp_path: Path) -> None:
    path = tmp_path / "file.onnx"
    export.to_onnx(lambda x: x.exp().sum(), (torch.ones(4, 3),), path, dynamic=({0: "batch"},))
    assert export.memory(path, sizes={"batch": 100}).peak_bytes == pytest.approx(100 * 3 * 4, abs=ROUNDING)
    with pytest.raises(ArgumentError, match=r"dynamic sizes are batch:\n  - batch: not given .*'batches'"):
        export.memory(path, sizes={"batches": 100})
    with pytest.raises(ArgumentError, match="must be a whole number from 0 on, got '8'"):
        export.memory(path, sizes={"batch": "8"})  # type: ignore[dict-item]
    with pytest.raises(LoadError):
        export.memory(tmp_path / "none.onnx")


def test_what_is_alive_at_the_peak_adds_up_and_reads_well(tmp_path: Path) -> None:
    path = tmp_path / "file.onnx"
    export.to_onnx(lambda x: (x.exp() * x.sin()).sum(1), (torch.ones(64, 64),), path)
    used = export.memory(path)
    top = next(node for node in used.nodes if node.name == used.peak_node)
    assert sum(value.bytes for value in used.alive) + top.workspace_bytes == used.peak_bytes
    assert used.held_bytes >= used.peak_bytes
    assert "alive there:" in used.table(1)
    assert "64×64" in used.table()
    assert used.to_dict()["peak_bytes"] == used.peak_bytes


def test_a_verdict_says_what_a_call_takes() -> None:
    verdict = export.verify(lambda x: (x.exp() * x.sin()).sum(1), (torch.ones(64, 64),), device="cpu")
    assert verdict.peak_bytes is not None
    assert verdict.peak_bytes >= 3 * 64 * 64 * 4
    assert f"memory: {in_mib(verdict.peak_bytes)} at once" in verdict.table()


def test_a_loop_takes_its_body_once(tmp_path: Path) -> None:
    path = tmp_path / "file.onnx"
    rows = torch.ones(1000, 64, 64)
    export.to_onnx(lambda x: pure.scan(lambda c, row: (c + row.exp(), c.sum()), x[0], x)[0], (rows,), path)
    used = export.memory(path)
    assert used.peak_bytes < 100 * 64 * 64 * 4, used.table()
    assert any(node.op == "Scan" and node.workspace_bytes >= 64 * 64 * 4 for node in used.nodes)


def test_a_folded_constant_whose_axes_were_permuted_is_followed() -> None:
    """ONNX Runtime moves a Transpose into a constant that it has folded, and leaves the name that the file gave it."""
    file = '<ir_version: 10, opset_import: ["" : 20]> f (float[2,3,4] x) => (float[2,3,4] y) '
    model = onnx.parser.parse_model(file + "<float[2,3,4] c = {" + "1," * 23 + "1}> { y = Add (x, c) }")
    recorded = onnx.parser.parse_model(file + "<float[2,4,3] c> { y = Add (x, x) }").graph
    assert measuring._inferred(model, recorded, {}).bytes["c"] == 2 * 3 * 4 * 4
