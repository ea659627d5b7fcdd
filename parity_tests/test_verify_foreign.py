"""A verdict on anyone's file and module: written by torch.onnx or by hand, matched by name, by order or as asked."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

import export
import pure
from export import errors
from export.verdict.influence import unused
from pure.interop import from_module

FLOAT = onnx.TensorProto.FLOAT
X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
Y = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """A small network with statistics, a residual sum and two named results."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        hidden = self.norm(self.stem(image))
        hidden = hidden + hidden.relu()
        return {"logits": self.head(hidden.mean((2, 3))) * scale, "hidden": hidden}


def net() -> Net:
    torch.manual_seed(0)
    found = Net().eval()
    assert found.norm.running_mean is not None
    found.norm.running_mean.uniform_(-0.2, 0.2)
    return found


IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(2))
SCALE = torch.tensor([1.5])


@pytest.fixture(scope="module")
def torch_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file that torch.onnx wrote of `net()`, with a dynamic batch."""
    path = tmp_path_factory.mktemp("torch_onnx") / "net.onnx"
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net(),
            (IMAGE, SCALE),
            path,
            dynamo=True,
            dynamic_shapes=({0: batch}, None),
            external_data=False,
            verbose=False,
        )
    return path


def changed(path: Path, folder: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(path)
    change(model)
    onnx.save(model, folder / "changed.onnx")
    return folder / "changed.onnx"


def by_hand(folder: Path, nodes: list[tuple[str, list[str], list[str]]], inputs: list[str], outputs: list[str]) -> Path:
    """Write a file of operators on float32 [5, 8]."""
    values = {name: helper.make_tensor_value_info(name, FLOAT, [5, 8]) for name in (*inputs, *outputs)}
    graph = helper.make_graph(
        [helper.make_node(op, given, out) for op, given, out in nodes],
        "by_hand",
        [values[name] for name in inputs],
        [values[name] for name in outputs],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "f.onnx")
    return folder / "f.onnx"


def test_a_module_and_the_file_that_torch_wrote_of_it(torch_file: Path) -> None:
    verdict = export.verify(net(), (IMAGE, SCALE), torch_file)
    assert verdict.passed, verdict.table(full=True)
    assert {row.case for row in verdict.rows} >= {"batch=2", "batch=1", "batch=7"}
    assert {row.leaf for row in verdict.rows} == {"out.logits", "out.hidden"}
    assert export.verify(net(), (), torch_file, kwargs={"scale": SCALE, "image": IMAGE}).passed


def test_a_function_with_its_parameters_first(torch_file: Path) -> None:
    module = net()
    weights = {**dict(module.named_parameters()), **dict(module.named_buffers())}

    def pure_net(params: dict[str, Tensor], image: Tensor, scale: Tensor) -> Any:
        return torch.func.functional_call(module, params, (image, scale))

    assert export.verify(pure_net, (weights, IMAGE, SCALE), torch_file).passed
    weights["head.weight"] = weights["head.weight"] * 1.01
    assert export.verify(pure_net, (weights, IMAGE, SCALE), torch_file).status == "fail"


def test_a_wrong_weight_fails(torch_file: Path, tmp_path: Path) -> None:
    def scaled(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))

    verdict = export.verify(net(), (IMAGE, SCALE), changed(torch_file, tmp_path, scaled))
    assert verdict.status == "fail"
    assert {row.leaf for row in verdict.rows if row.status == "fail"} == {"out.logits"}


def test_the_module_stays_as_it_is(torch_file: Path) -> None:
    class Remembering(Net):
        def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
            self.seen = image
            return super().forward(image, scale)

    module = Remembering().eval()
    module.load_state_dict(net().state_dict())
    assert export.verify(module, (IMAGE, SCALE), torch_file).passed
    assert not hasattr(module, "seen")


def test_inputs_are_matched_by_name_whatever_their_order(tmp_path: Path) -> None:
    path = by_hand(tmp_path, [("Sub", ["y", "x"], ["z"])], ["y", "x"], ["z"])

    def difference(x: Tensor, y: Tensor) -> Tensor:
        return y - x

    verdict = export.verify(difference, (X, Y), path)
    assert verdict.passed, verdict.table()
    assert not verdict.notes
    assert export.verify(lambda x, y: x - y, (X, Y), path).status == "fail"


def test_inputs_are_matched_by_order_where_names_say_nothing(tmp_path: Path) -> None:
    path = by_hand(tmp_path, [("Sub", ["a", "b"], ["z"])], ["a", "b"], ["z"])
    verdict = export.verify(torch.sub, (X, Y), path)
    assert verdict.passed, verdict.table()
    assert any("matched by order: a = " in note for note in verdict.notes)
    assert export.verify(lambda p, q: q - p, (Y, X), path, inputs={"a": 1, "b": "p"}).passed
    assert export.verify(torch.sub, (X, Y), path, inputs={"a": 1, "b": 0}).status == "fail"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"c": 0}, r"no input 'c'.*it takes a, b"),
        ({"a": 2}, r"inputs\['a'\] is 2; the call has 2 tensors"),
        ({"a": "z"}, r"inputs\['a'\] is 'z', which the call has not"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(inputs: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = by_hand(tmp_path, [("Sub", ["a", "b"], ["z"])], ["a", "b"], ["z"])
    with pytest.raises(errors.ArgumentError, match=message):
        export.verify(torch.sub, (X, Y), path, inputs=inputs)


def test_inputs_that_cannot_be_matched_are_listed(tmp_path: Path) -> None:
    path = by_hand(tmp_path, [("Sub", ["a", "b"], ["z"])], ["a", "b"], ["z"])
    with pytest.raises(errors.ArgumentError, match=r"(?s)say which is which.*the file takes b: .*the call has q"):
        export.verify(lambda p, q, r: p + q + r, (X, Y, X), path, inputs={"a": 0})
    with pytest.raises(errors.ArgumentError, match="cannot be matched"):
        export.verify(lambda p, q: p + q, (X, Y.long()), path)


class Pair(NamedTuple):
    """A result as a named tuple."""

    second: Tensor
    first: Tensor


@dataclasses.dataclass
class Record:
    """A result as a dataclass."""

    second: Tensor
    first: Tensor
    nothing: Tensor | None = None


@pytest.mark.parametrize("kind", ["tuple", "dict", "named tuple", "dataclass", "model output"])
def test_results_of_every_kind(kind: str, tmp_path: Path) -> None:
    from transformers.utils import ModelOutput

    @dataclasses.dataclass
    class Output(ModelOutput):  # type: ignore[misc]
        second: Tensor | None = None
        first: Tensor | None = None

    makers: dict[str, Any] = {
        "tuple": lambda second, first: (second, first),
        "dict": lambda second, first: {"second": second, "first": first},
        "named tuple": Pair,
        "dataclass": Record,
        "model output": Output,
    }
    order = ["s", "f"] if kind == "tuple" else ["first", "second"]  # else told by name
    nodes = [
        ("Relu", ["x"], ["s" if kind == "tuple" else "second"]),
        ("Neg", ["x"], ["f" if kind == "tuple" else "first"]),
    ]
    path = by_hand(tmp_path, nodes, ["x"], order)
    assert export.verify(lambda x: makers[kind](x.relu(), -x), (X,), path).passed
    assert export.verify(lambda x: makers[kind](x.relu(), x), (X,), path).status == "fail"


def test_missing_and_extra_outputs_fail(tmp_path: Path) -> None:
    path = by_hand(tmp_path, [("Relu", ["x"], ["relu"]), ("Neg", ["x"], ["neg"])], ["x"], ["relu", "neg"])
    extra = export.verify(lambda x: {"relu": x.relu()}, (X,), path)
    assert extra.status == "fail"
    assert "an output of the file that the function does not give" in extra.table(full=True)
    missing = export.verify(lambda x: {"relu": x.relu(), "neg": -x, "exp": x.exp()}, (X,), path)
    assert "an output of the function that the file does not give" in missing.table(full=True)
    other = export.verify(lambda x: (x, x, x), (X,), path)
    assert "the file gives relu, neg; the function 0, 1, 2" in other.table(full=True)


def test_declared_dtypes_and_sizes_are_judged(tmp_path: Path) -> None:
    path = by_hand(tmp_path, [("Relu", ["x"], ["z"])], ["x"], ["z"])
    assert "declared float, expected float64" in export.verify(lambda x: x.relu(), (X.double(),), path).table(full=True)
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9
    onnx.save(model, path)
    with pytest.raises(errors.ExportError):
        export.verify(torch.relu, (X,), path).raise_if_failed()


def test_a_function_that_cannot_be_recorded_is_judged_by_eager_runs(tmp_path: Path) -> None:
    def branching(x: Tensor) -> Tensor:
        return (x @ x.mT).tanh() if float(x.sum()) < 1e9 else x

    def reference(x: Tensor) -> Tensor:
        return (x @ x.mT).tanh()

    path = tmp_path / "f.onnx"
    export.to_onnx(reference, (X,), path)
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    verdict = export.verify(branching, (X,), path)
    assert verdict.passed, verdict.table()
    assert any("cannot be recorded" in note for note in verdict.notes)
    (row,) = verdict.rows
    assert row.ratio is not None
    assert 0 < row.ratio < 4

    def off(model: onnx.ModelProto) -> None:
        model.graph.node[-1].op_type = "Erf"

    assert export.verify(branching, (X,), changed(path, tmp_path, off)).status == "fail"


def test_a_module_in_training_mode_is_judged_in_it(tmp_path: Path) -> None:
    path = by_hand(tmp_path, [("Relu", ["x"], ["z"])], ["x"], ["z"])
    module = nn.Sequential(nn.BatchNorm1d(8), nn.ReLU())
    assert export.verify(module.train(), (X,), path).status == "fail"
    assert torch.equal(module[0].running_mean, torch.zeros(8))
    module.eval()
    module[0].eps = 0.0
    assert export.verify(module, (X,), path).passed


@pytest.mark.parametrize("kind", ["memory", "names", "npz", "safetensors"])
def test_further_samples(kind: str, torch_file: Path, tmp_path: Path) -> None:
    image = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(5)) * 10
    sample: Any = {"image": image, "scale": SCALE * 3}
    if kind == "memory":
        sample = (image, SCALE * 3)
    elif kind == "npz":
        np.savez(tmp_path / "sample.npz", image=image.numpy(), scale=SCALE.numpy())
        sample = tmp_path / "sample.npz"
    elif kind == "safetensors":
        save_file({"image": image, "scale": SCALE}, tmp_path / "sample.safetensors")
        sample = tmp_path / "sample.safetensors"
    verdict = export.verify(net(), (IMAGE, SCALE), torch_file, samples=[sample])
    assert verdict.passed, verdict.table(full=True)
    assert "sample 1" in {row.case for row in verdict.rows}
    alone = export.verify(net(), (), torch_file, samples=[sample])
    assert alone.passed
    assert "batch=3" in {row.case for row in alone.rows}


def test_samples_of_a_file_of_ours_leave_the_parameters_as_they_are(tmp_path: Path) -> None:
    block = pure.Linear(8, 3)
    params = block.init(torch.Generator().manual_seed(0))[0]
    path = tmp_path / "f.onnx"
    export.to_onnx(block, (params, X), path)
    verdict = export.verify(block, (params, X), path, samples=[{"x": Y}, (params, Y)])
    assert verdict.passed, verdict.table()
    assert {"sample 1", "sample 2"} <= {row.case for row in verdict.rows}


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"image": IMAGE}, "sample 1 lacks scale"),
        ({"image": IMAGE, "scale": SCALE, "other": SCALE}, "sample 1 has other, which the function does not take"),
        ({"image": IMAGE.long(), "scale": SCALE}, r"sample 1: image is torch.int64 with 4 axes"),
        ("nowhere.npz", "cannot be read as an .npz file of numbers: .*No such file"),
    ],
)
def test_samples_that_do_not_fit(sample: Any, message: str, torch_file: Path) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        export.verify(net(), (IMAGE, SCALE), torch_file, samples=[sample])


def test_a_damaged_file_of_samples_is_refused(torch_file: Path, tmp_path: Path) -> None:
    for name in ("sample.npz", "sample.safetensors", "sample.txt"):
        (tmp_path / name).write_bytes(b"not what it says")
        with pytest.raises(errors.PureExportError, match=r"cannot be read|is no file of inputs|cannot read"):
            export.verify(net(), (IMAGE, SCALE), torch_file, samples=[tmp_path / name])


def test_what_the_file_does_not_take_must_not_matter(tmp_path: Path) -> None:
    path = by_hand(tmp_path, [("Relu", ["x"], ["z"])], ["x"], ["z"])

    class Two(nn.Module):
        def __init__(self, share: float) -> None:
            super().__init__()
            self.share, self.weight = share, nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.relu() * self.weight + self.share * y

    zeros = torch.zeros(5, 8)
    with pytest.warns(errors.UnusedInputWarning, match="depended on y"):
        assert export.verify(Two(0.0), (X, zeros), path, inputs={"x": "x"}).passed
    verdict = export.verify(Two(1.0), (X, zeros), path, inputs={"x": "x"})
    (row,) = (row for row in verdict.rows if row.status == "fail")
    assert (row.leaf, row.case) == ("y", "interface")
    assert row.reason == "the outputs depend on it, and the file does not take it"


def test_weights_without_influence_are_named() -> None:
    params = {"gain": torch.zeros(()), "weight": torch.ones(8, 8)}

    def gated(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return x + params["gain"] * (x @ params["weight"])

    with pytest.warns(
        errors.UnusedInputWarning, match=r"no output depended on params\.weight: the verdict says nothing"
    ):
        verdict = export.verify(gated, (params, X))
    assert verdict.passed
    assert verdict.unused == ("params.weight",)
    assert "warning: no output depended on params.weight" in verdict.table()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert export.verify(gated, ({**params, "gain": torch.ones(())}, X)).unused == ()


def test_many_weights_behind_a_gain_of_zero_take_a_few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in networks whose branches begin with a gain of 0; one leaf among them matters without having a gradient."""
    params: dict[str, Any] = {f"w{i}": torch.full((8, 8), 0.1) for i in range(40)}
    params |= {"gain": torch.zeros(()), "threshold": torch.tensor(0.1)}

    def gated(params: dict[str, Tensor], x: Tensor) -> Tensor:
        branch = x
        for i in range(40):
            branch = torch.tanh(branch @ params[f"w{i}"])
        return x + params["gain"] * branch + (x > params["threshold"])

    runs = []
    real = unused.exact_values
    monkeypatch.setattr(unused, "exact_values", lambda *given, **named: runs.append(1) or real(*given, **named))
    verdict = export.verify(gated, (params, X))
    assert verdict.unused == tuple(f"params.w{i}" for i in range(40))
    assert len(runs) <= 16  # of 41 leaves without a gradient


def test_branches_and_indices_without_influence_are_named() -> None:
    def fn(x: Tensor, control: Tensor, index: Tensor) -> Tensor:
        return torch.cond(control > 0.5, lambda a: a.relu(), lambda a: (a + a.abs()) / 2, (x,)) + 0 * index.sum()

    verdict = export.verify(fn, (X, torch.tensor(1.0), torch.arange(3)))
    assert verdict.passed, verdict.table()
    assert [name for name in verdict.unused if name != "index"] == ["the choice of cond"]
    assert "index" in verdict.unused
    assert "control" not in verdict.unused


@pytest.mark.parametrize("transform", [lambda fn: fn, pure.grad], ids=["forward", "gradient"])
def test_one_gradient_tells_of_all_weights_around_a_normalisation(
    monkeypatch: pytest.MonkeyPatch, transform: Callable[..., Any]
) -> None:
    """PyTorch has no derivative of a batch norm by its statistics, nor of hardsigmoid's: only these go in parts."""
    block, params, state = from_module(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Hardsigmoid()))

    def loss(params: Any, x: Tensor, state: Any) -> Tensor:
        return block(params, x, state).square().sum()

    monkeypatch.setattr(unused, "_influences", lambda *given: pytest.fail("a run for one leaf alone"))
    image = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert export.verify(transform(loss), (params, image, state)).unused == ()


def test_a_size_that_two_inputs_share_must_be_one(tmp_path: Path) -> None:
    path = by_hand(tmp_path, [("Relu", ["x"], ["a"]), ("Neg", ["y"], ["b"])], ["x", "y"], ["a", "b"])
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, path)
    verdict = export.verify(lambda x, y: (x.relu(), -y), (X, Y[:3]), path)
    assert "the file calls axis 0 'batch', which is 5 elsewhere" in verdict.table(full=True)
    together = export.verify(lambda x, y: (x.relu(), -y), (X, Y), path)
    assert together.passed, together.table()
    assert "batch=7" in {row.case for row in together.rows}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fn": "net.onnx"}, r"fn must be a pure function, a block or an nn\.Module, got 'net\.onnx'"),
        ({"against": Path("net.onnx")}, "against must be a function or .* a file to judge is the third argument"),
        ({"samples": "x.npz"}, r"samples must be a sequence, .* write samples=\['x\.npz'\]"),
        ({"inputs": 3}, "inputs must be {file input: .*}, got 3"),
    ],
    ids=["fn", "against", "samples", "inputs"],
)
def test_an_argument_in_another_s_place_is_said(given: dict[str, Any], said: str) -> None:
    given = {"fn": torch.tanh, "args": (X,), "device": "cpu", **given}
    with pytest.raises(errors.ArgumentError, match=said):
        export.verify(given.pop("fn"), **given)
