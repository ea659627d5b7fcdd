"""The syntax of targets: every form names what it says, user code fails with its line, inputs and weights fit."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper
from torch import nn

import export
import pure
from export.app import targets
from export.app.targets import Given, calls, inputs
from export.app.targets.nearest_names import nearest_five
from export.errors import ArgumentError
from pure import nets
from pure.interop.mismatch import CheckpointError

NET = """
import torch
from torch import nn
from beside import WIDTH

import pure


class Net(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.fc = nn.Linear(4, width)
        self.out = nn.Linear(width, 2)

    def forward(self, x, scale=None):
        y = self.out(torch.relu(self.fc(x)))
        return y if scale is None else y * scale


class Needs(nn.Module):
    def __init__(self, width):
        super().__init__()


class Holder:
    net = Net(3)


def make():
    return Net(5)


def fails():
    raise KeyError("no such key")


def fn(params, x, shift=0.0):
    return x @ params["w"] + shift


def constant():
    return torch.ones(2)


block = pure.Linear(4, 3)
number = 3
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "beside.py").write_text("WIDTH = 6\n")
    (tmp_path / "net.py").write_text(NET)
    return str(tmp_path / "net.py")


@pytest.fixture(autouse=True)
def clean_imports() -> Any:
    before, path = dict(sys.modules), list(sys.path)
    yield
    assert sys.path == path, "loading a target left the search path changed"
    for name in set(sys.modules) - set(before):
        if name in ("beside", "net", "bad"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("attribute", "kind", "made"),
    [
        ("Net", "module", "Net"),
        ("make", "module", "Net"),
        ("Holder.net", "module", "Net"),
        ("block", "block", "Linear"),
        ("fn", "function", "function"),
        ("constant", "function", "function"),
    ],
)
def test_an_attribute_of_a_file_is_taken_as_it_is_or_made(net: str, attribute: str, kind: str, made: str) -> None:
    found = targets.resolve(f"{net}:{attribute}")
    assert (found.kind, type(found.value).__name__) == (kind, made)
    assert found.file == str(Path(net).resolve())


def test_an_attribute_of_a_module_in_the_working_folder(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "net", raising=False)  # of another test's folder
    assert targets.resolve("net:make").value.fc.out_features == 5
    assert targets.resolve("pure.nets:resnet18").kind == "block", "it has no required parameter, and makes a block"
    assert targets.resolve("torch:tanh").kind == "function"


def test_rows_networks_and_the_models_of_libraries() -> None:
    assert targets.resolve("skip_mlp").kind == "row", "the row of that name comes before the network"
    assert targets.resolve("resnet18").value == nets.create("resnet18")
    vision = targets.resolve("torchvision:squeezenet1_1")
    assert (type(vision.value).__name__, vision.image, vision.value.training) == ("SqueezeNet", (3, 224, 224), False)
    timm = targets.resolve("timm:resnet10t")
    assert (type(timm.value).__name__, timm.image, timm.value.training) == ("ResNet", (3, 176, 176), False)
    assert targets.resolve("torchvision:r3d_18").image is None, "it takes videos"


def test_random_weights_depend_on_the_seed_alone(net: str) -> None:
    state = torch.random.get_rng_state()
    one, same, other = (targets.resolve(f"{net}:Net", seed=seed).value for seed in (0, 0, 1))
    assert torch.equal(one.fc.weight, same.fc.weight)
    assert not torch.equal(one.fc.weight, other.fc.weight)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("skip_mpl", "did you mean 'skip_mlp', "),
        ("resnet19", "'resnet18'"),
        ("residual_mlp_blokc", "'residual_mlp_block'"),
        ("transformer_layer", "no default for features, heads"),
        ("timm:resnet8", "did you mean 'resnet18'"),
        ("torchvision:resnet8", "did you mean 'resnet18'"),
        ("no.such.module:x", "cannot be found"),
        ("torch:tahn", "(did you mean 'tan', 'tanh', "),
        ("torch:nn.Liner", "torch:nn has no attribute 'Liner' (did you mean 'Linear'"),
        ("no/such/file.py:x", "no such file"),
        ("net.py", "names no attribute: give net.py:ATTRIBUTE"),
        (":x", "lacks a part"),
        ("torch:", "lacks a part"),
        ("a b:x", "neither a module's dotted name nor a .py file"),
        ("{net}:nte", "did you mean"),
        ("{net}:Needs", "whose width must be given"),
        ("{net}:number", "of type int, expected a module, a block or a function"),
        ("{net}:Holder", "is the class Holder"),
        ("{net}:fails", "raises KeyError: 'no such key' ({net}:34)"),
    ],
)
def test_what_names_nothing_is_one_error(net: str, text: str, said: str) -> None:
    with pytest.raises(ArgumentError) as refused:
        targets.resolve(text.format(net=net))
    assert said.format(net=net) in str(refused.value)


def test_five_names_are_shown() -> None:
    with pytest.raises(ArgumentError) as refused:
        targets.resolve("skip_mpl")
    assert str(refused.value).partition("(did you mean ")[2].partition("?)")[0].count("'") == 10
    assert nearest_five("x", []) == ""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0\n", "raises ZeroDivisionError: division by zero ({bad}:1)"),
        ("import torch\ndef f(:\n", "raises SyntaxError: invalid syntax ({bad}:2)"),
        (
            "import os\nimport no_such_module\n",
            "raises ModuleNotFoundError: No module named 'no_such_module' ({bad}:2)",
        ),
        ("import sys\n\nsys.exit(3)\n", "ends the process ({bad}:3)"),
        ("class Own(Exception):\n    pass\nraise Own('mine')\n", "raises Own: mine ({bad}:3)"),
    ],
)
def test_code_that_cannot_be_loaded_is_named_with_its_line(tmp_path: Path, source: str, said: str) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(source)
    for text in (f"{bad}:x", f"{bad}:x"):  # the second time it is no half-loaded module either
        with pytest.raises(ArgumentError) as refused:
            targets.resolve(text)
        assert said.format(bad=bad) in str(refused.value)


def test_a_file_called_like_a_module_takes_nothing_from_it(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("import torch\nnet = torch.nn.Linear(2, 2)\n")
    import json

    assert targets.resolve(f"{tmp_path / 'json.py'}:net").kind == "module"
    assert sys.modules["json"] is json


def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("timm", "torchvision"):
        monkeypatch.delitem(sys.modules, "torchvision.models", raising=False)
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ArgumentError, match=rf"{name} is not installed.*pure-export\[models\]"):
            targets.resolve(f"{name}:resnet18")


def test_models_never_fetch_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(*args: Any, **options: Any) -> Any:
        raise AssertionError(f"fetches {args}")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetched)
    found = targets.resolve("torchvision:lraspp_mobilenet_v3_large")  # its backbone has pretrained weights by default
    assert found.image == (3, 224, 224)


def named(call: Any) -> dict[str, Any]:
    return dict(zip(call.names, call.args, strict=True))


def test_a_module_is_a_function_of_its_parameters_and_inputs(net: str) -> None:
    found = targets.resolve(f"{net}:Net")
    x = torch.randn(3, 4)
    call = targets.ready(found, given=Given({"x": x}))
    assert call.names == ("params", "x")
    assert torch.equal(call.fn(*call.args), found.value(x))
    both = targets.ready(found, given=Given({"scale": torch.tensor(2.0), "x": x}))
    assert both.names == ("params", "x", "scale")
    assert torch.equal(both.fn(*both.args), 2 * found.value(x))
    with pytest.raises(ArgumentError, match=r"give --inputs FILE.npz with arrays x, \[scale\]"):
        targets.ready(found)
    with pytest.raises(ArgumentError, match=r"x: missing\n  - sclae: not expected \(did you mean 'scale'"):
        targets.ready(found, given=Given({"sclae": x}))


def test_a_module_with_buffers_has_a_state() -> None:
    norm = targets.Target("norm", "module", nn.BatchNorm1d(4).eval())
    call = targets.ready(norm, given=Given({"input": torch.randn(3, 4)}))
    assert call.names == ("params", "input", "state")
    assert named(call)["state"].keys() == {"running_mean", "running_var", "num_batches_tracked"}
    identity = targets.resolve("torch.nn:Identity")
    assert targets.ready(identity, given=Given({"arr_0": torch.ones(2)})).names == ("params", "input"), "numpy's name"


def test_a_function_takes_arrays_by_name_or_in_order(net: str, tmp_path: Path) -> None:
    found = targets.resolve(f"{net}:fn")
    arrays = {"x": torch.ones(2, 3), "params.w": torch.ones(3, 1)}
    call = targets.ready(found, given=Given(arrays))
    assert (call.names, call.fn(*call.args).tolist()) == (("params", "x"), [[3.0], [3.0]])
    safetensors.torch.save_file({"w": torch.full((3, 1), 2.0)}, tmp_path / "w.safetensors")
    call = targets.ready(found, given=Given({"x": torch.ones(2, 3)}), weights=tmp_path / "w.safetensors")
    assert call.fn(*call.args).tolist() == [[6.0], [6.0]]
    call = targets.ready(targets.resolve("torch:add"), given=Given({"p": torch.ones(2), "q": torch.ones(2)}))
    assert len(call.args) == 2
    with pytest.raises(ArgumentError, match="x is not given, but shift"):
        targets.ready(
            targets.Target("f", "function", lambda x=0, shift=0: shift), given=Given({"shift": torch.ones(2)})
        )


def test_rows_and_networks_have_inputs_of_their_own() -> None:
    row = pure.catalogue.case("dynamic_net")
    call = targets.ready(targets.resolve("dynamic_net"), seed=2)
    assert torch.equal(named(call)["x"], row.example(seed=2)[3])
    other = targets.ready(targets.resolve("dynamic_net"), given=Given({"x": torch.ones(9, 6)}))
    assert named(other)["x"].shape == (9, 6)
    assert named(other)["extras"].keys() == {"control"}
    with pytest.raises(ArgumentError, match="did you mean 'x'"):
        targets.ready(targets.resolve("dynamic_net"), given=Given({"xx": torch.ones(9, 6), "y": torch.ones(2)}))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet20", (2, 3, 32, 32)),
        ("densenet40_12", (2, 3, 32, 32)),
        ("fixup_resnet20", (2, 3, 32, 32)),
        ("resnet18", (2, 3, 224, 224)),
        ("vit_tiny_patch16_224", (2, 3, 224, 224)),
        ("gpt2", (2, 16)),
        ("llama", (2, 16)),
    ],
)
def test_the_input_of_a_network(name: str, shape: tuple[int, ...]) -> None:
    block = nets.create(name)
    x = inputs.network_input(name, block, 0)
    assert x.shape == shape
    assert block.out_shape(shape)[0] == 2


def test_every_network_without_required_options_has_an_input() -> None:
    import inspect

    for name, make in nets.NETWORKS.items():
        if all(
            p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in inspect.signature(make).parameters.values()
        ):
            inputs.network_input(name, nets.create(name), 0)


def test_perturbed_parameters_have_influence_and_variances_stay_positive() -> None:
    block, params, state, x, extras = pure.catalogue.case("rezero").example()
    call = targets.ready(targets.resolve("rezero"), moved=True)
    moved = named(call)["params"]
    flat = pure.flatten(moved)
    assert all(bool((leaf != pure.flatten(params)[name]).all()) for name, leaf in flat.items())
    without = {name: torch.zeros_like(leaf) if name.endswith("weight") else leaf for name, leaf in flat.items()}
    assert not torch.equal(block(moved, x, state, extras), block(pure.unflatten(without), x, state, extras))
    again = targets.ready(targets.resolve("rezero"), moved=True)
    assert all(torch.equal(leaf, pure.flatten(named(again)["params"])[name]) for name, leaf in flat.items())
    call = targets.ready(targets.resolve("batch_norm"), moved=True)
    statistics = named(call)["state"]
    assert bool((statistics["running_var"] > 1).all())
    assert bool((statistics["running_mean"] != 0).all())
    assert statistics["num_batches_tracked"] == 0


def test_weights_of_a_module(net: str, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    other = targets.resolve(f"{net}:Net", seed=5).value.state_dict()
    safetensors.torch.save_file(other, file)
    found = targets.resolve(f"{net}:Net")
    call = targets.ready(found, given=Given({"x": torch.ones(1, 4)}), weights=file, moved=True)
    assert torch.equal(named(call)["params"]["fc"]["weight"], other["fc.weight"]), "given weights are not perturbed"
    wrong = {"fc.weight": torch.ones(2, 2), "fc.bais": other["fc.bias"], "out.weight": other["out.weight"]}
    safetensors.torch.save_file(wrong, file)
    with pytest.raises(CheckpointError) as refused:
        targets.ready(targets.resolve(f"{net}:Net"), given=Given({"x": torch.ones(1, 4)}), weights=file)
    assert refused.value.missing == ("fc.bias", "out.bias")
    assert refused.value.unexpected == ("fc.bais",)
    assert "fc.bias: missing (did you mean 'fc.bais'?)" in str(refused.value)
    assert "shape of 'fc.weight' is (2, 2), expected (6, 4)" in str(refused.value)


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    safetensors.torch.save_file({"0.weight": torch.eye(3)}, tmp_path / "w.safetensors")
    target = targets.Target("tied", "module", tied)
    targets.ready(target, given=Given({"input": torch.ones(1, 3)}), weights=tmp_path / "w.safetensors")
    assert torch.equal(tied[1].weight, torch.eye(3))


def test_weights_of_a_block(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    row = targets.resolve("batch_norm")
    params, state = row.value.init(torch.Generator().manual_seed(0))
    wanted = {"weight": torch.full_like(params["weight"], 3.0), "bias": params["bias"]}
    for tree in (wanted, {"params": wanted, "state": state}):
        pure.save(tree, file)
        found = named(targets.ready(row, weights=file))
        assert torch.equal(found["params"]["weight"], wanted["weight"])
        assert found["state"].keys() == state.keys()
    pure.save({"weight": wanted["weight"]}, file)
    with pytest.raises(CheckpointError, match="bias: missing"):
        targets.ready(row, weights=file)
    whole = pure.interop.to_state_dict(nets.create("resnet18"), *nets.create("resnet18").init(torch.Generator()))
    pure.interop.write(whole, file)
    call = targets.ready(targets.resolve("resnet18"), weights=file)
    assert torch.equal(pure.flatten(named(call)["params"])["fc.weight"], whole["fc.weight"]), "torchvision's names"


def declared(*values: onnx.ValueInfoProto, nodes: Any = (), tables: Any = ()) -> onnx.ModelProto:
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", list(values), [out], list(tables))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_inputs_are_drawn_as_a_file_declares_them(tmp_path: Path) -> None:
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "h", "w"]),
        helper.make_tensor_value_info("half", TensorProto.FLOAT16, ["batch", "seq"]),
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "seq"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "seq"]),
        helper.make_tensor_value_info("kind", TensorProto.INT64, [4, None]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        helper.make_tensor_value_info("table", TensorProto.FLOAT, [50, 2]),
    ]
    nodes = [helper.make_node("Gather", ["table", "cast"], ["out"]), helper.make_node("Identity", ["ids"], ["cast"])]
    table = helper.make_tensor("table", TensorProto.FLOAT, [50, 2], np.zeros(100))
    path = tmp_path / "m.onnx"
    path.write_bytes(declared(*values, nodes=nodes[::-1], tables=[table]).SerializeToString())
    found = inputs.declared(path, 0)
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    assert shapes == {
        "x": (2, 3, 64, 64),
        "half": (2, 3),
        "ids": (2, 3),
        "attention_mask": (2, 3),
        "kind": (4, 3),
        "flag": (),
    }, "what has a value in the file is no input that must be given"
    assert (found["half"].dtype, found["ids"].dtype, found["flag"].dtype) == (torch.float16, torch.int64, torch.bool)
    assert found["ids"].max() > 1
    assert found["ids"].max() < 50
    assert found["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 0]]
    assert set(found["kind"].flatten().tolist()) == {0, 1}
    assert torch.equal(inputs.declared(path, 0)["x"], found["x"])
    assert not torch.equal(inputs.declared(path, 1)["x"], found["x"])


@pytest.mark.parametrize(("name", "said"), [("x.txt", "expected .npz or .safetensors"), ("x.npz", "cannot be read")])
def test_files_of_inputs_that_are_none(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(ArgumentError, match=said):
        inputs.read(tmp_path / name)


def test_arrays_keep_shape_and_dtype(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.float64(2.0), b=np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)))
    found = inputs.read(tmp_path / "x.npz").arrays
    assert (found["a"].shape, found["a"].dtype) == ((), torch.float64)
    assert found["b"].tolist() == [[0, 1, 2], [3, 4, 5]]
    np.savez(tmp_path / "bad.npz", a=np.array(["text"]))
    with pytest.raises(ArgumentError, match=r"cannot be read as an \.npz file of numbers"):
        inputs.read(tmp_path / "bad.npz")


def test_a_module_target_exports_and_keeps_the_names_of_forward(net: str, tmp_path: Path) -> None:
    call = targets.ready(targets.resolve(f"{net}:Net"), given=Given({"x": torch.randn(3, 4)}))
    exported = export.to_onnx(call.fn, call.args, tmp_path / "m.onnx", dynamic=call.dynamic)
    assert exported.inputs == ("params.fc.weight", "params.fc.bias", "params.out.weight", "params.out.bias", "x")


def test_a_block_of_a_target_for_the_audit(net: str) -> None:
    with pytest.raises(ArgumentError, match="is a function, expected a block or a module"):
        calls.as_block(targets.resolve(f"{net}:fn"), given=Given({"x": torch.ones(1, 3)}))
    block, params, state, x, extras = calls.as_block(
        targets.resolve(f"{net}:Net"), given=Given({"x": torch.ones(2, 4), "scale": torch.tensor(3.0)})
    )
    assert block(params, x, state, extras).shape == (2, 2)
