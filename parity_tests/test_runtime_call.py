"""A loaded file is called like the function; whatever does not fit is one error that lists all of it."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import export
from export import errors
from export.runtime import sessions

ROOT = Path(__file__).resolve().parent.parent
PARAMS = {"fc1": {"weight": torch.linspace(-1, 1, 12).reshape(4, 3), "bias": torch.linspace(0, 1, 4)}}
X = torch.linspace(-2, 2, 15).reshape(5, 3)


def network(params: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    h = torch.nn.functional.linear(x, params["fc1"]["weight"], params["fc1"]["bias"])
    return {"h": h, "total": h.sum()}


@pytest.fixture
def f(tmp_path: Path) -> export.Loaded:
    return export.to_onnx(network, (PARAMS, X), tmp_path / "net.onnx", dynamic=(None, {0: "batch"})).load()


def test_torch_in_torch_out(f: export.Loaded) -> None:
    out = f(PARAMS, X)
    assert isinstance(out["h"], torch.Tensor)
    torch.testing.assert_close(out["h"], network(PARAMS, X)["h"])
    assert out["total"].shape == ()


def test_numpy_in_numpy_out(f: export.Loaded) -> None:
    out = f({"fc1": {name: value.numpy() for name, value in PARAMS["fc1"].items()}}, X.numpy())
    assert isinstance(out["h"], np.ndarray)
    np.testing.assert_allclose(out["h"], network(PARAMS, X)["h"].numpy(), rtol=1e-5)
    assert isinstance(out["total"], np.ndarray)


def test_strided_and_transposed_tensors_are_read_in_their_own_order(f: export.Loaded) -> None:
    x = X.repeat(2, 2).T.contiguous().T[::2, :3]
    assert not x.is_contiguous()
    assert torch.equal(f(PARAMS, x)["h"], f(PARAMS, x.contiguous())["h"])
    turned = np.asfortranarray(X.numpy())
    np.testing.assert_array_equal(
        f({"fc1": {k: v.numpy() for k, v in PARAMS["fc1"].items()}}, turned)["h"], f(PARAMS, X)["h"].numpy()
    )


def test_bound_arguments_are_fixed_and_copied(f: export.Loaded) -> None:
    weight = PARAMS["fc1"]["weight"].clone()
    g = f.bind({"fc1": {"weight": weight, "bias": PARAMS["fc1"]["bias"]}})
    before = g(X)["h"]
    weight.zero_()
    assert torch.equal(g(X)["h"], before)
    assert g.signature == "f(x)"
    assert [leaf.name for leaf in g.inputs] == ["x"]
    assert torch.equal(g.bind(X)()["h"], before)
    with pytest.raises(errors.ArgumentError, match="at most 1 arguments"):
        g.bind(X, X)
    with pytest.raises(errors.ArgumentError, match=r"params.fc1.bias: missing"):
        f.bind({"fc1": {"weight": weight}})


WRONG: dict[str, tuple[Any, str]] = {
    "too few": ((X,), r"(?s)takes 2 arguments, f\(params, x\), got 1.*params.fc1.weight: float32\[4, 3\]"),
    "too many": ((PARAMS, X, X), "takes 2 arguments"),
    "misspelt key": (({"fc1": {"wieght": X, "bias": X}}, X), r"weight: missing \(did you mean 'wieght'\?\)"),
    "extra key": (({**PARAMS, "fc2": X}, X), "params.fc2: not expected"),
    "no dict": ((X, X), "params: expected a dict"),
    "a list": ((PARAMS, [X]), "x: expected a tensor, got a list of 1"),
    "dtype": ((PARAMS, X.double()), "x: expected float32, got float64"),
    "rank": ((PARAMS, X[0]), r"x: expected shape \(batch, 3\), got \(3,\)"),
    "size": ((PARAMS, X[:, :2]), r"x: axis 1 must be 3, got 2"),
    "gradient": ((PARAMS, X.clone().requires_grad_()), "requires grad, but a file has no gradient"),
    "text": ((PARAMS, "x"), "x: expected a tensor, got a str"),
}


@pytest.mark.parametrize(("args", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_argument_is_named(f: export.Loaded, args: Any, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        f(*args)


def test_all_problems_come_in_one_message(f: export.Loaded) -> None:
    with pytest.raises(errors.ArgumentError) as caught:
        f({"fc1": {"weight": torch.ones(4, 2), "baas": torch.ones(4)}}, X.double())
    for part in (
        "params.fc1.weight: axis 1 must be 3",
        "params.fc1.bias: missing",
        "params.fc1.baas",
        "x: expected float32",
    ):
        assert part in str(caught.value)


def test_keywords_are_refused(f: export.Loaded) -> None:
    with pytest.raises(errors.ArgumentError, match=r"positional arguments only \(f\(params, x\)\)"):
        f(PARAMS, x=X)


def test_a_transform_around_a_file_says_to_export_the_transform(f: export.Loaded) -> None:
    with pytest.raises(errors.ArgumentError, match="export the transformed function"):
        torch.func.vmap(lambda x: f(PARAMS, x)["h"])(X[None])
    with pytest.raises(errors.ArgumentError, match="export the transformed function"):
        torch.func.grad(lambda x: f(PARAMS, x)["total"])(X)


def test_gradients_are_fine_under_no_grad(f: export.Loaded) -> None:
    with torch.no_grad():
        assert f(PARAMS, X.clone().requires_grad_())["h"].shape == (5, 4)


def test_placement_numerics_and_description_say_where_it_ran(f: export.Loaded) -> None:
    assert set(f.placement.values()) == {"CPUExecutionProvider" if f.device == "cpu" else "CUDAExecutionProvider"}
    assert f.placement
    assert f.numerics.tf32 is False
    assert f.numerics.deterministic is True
    assert f.numerics.producer["torch"] == torch.__version__.partition("+")[0]
    text = f.describe()
    assert "f(params, x)" in text
    assert f"runs on {f.device}" in text
    assert "x: float32[batch, 3]" in text


NO_CUDA = sessions.cuda_problem()


@pytest.mark.skipif(NO_CUDA is None, reason="this machine has CUDA")
def test_cuda_that_is_not_there_is_an_error_and_auto_says_why(tmp_path: Path) -> None:
    exported = export.to_onnx(network, (PARAMS, X), tmp_path / "net.onnx")
    with pytest.raises(errors.ProviderError, match=r"device='cuda' cannot be had: .*(libcuda|GPU|install)"):
        exported.load(device="cuda")
    assert "no CUDA: " in exported.load(device="auto").describe()
    assert "asked for" in exported.load(device="cpu").describe()


@pytest.mark.skipif(NO_CUDA is not None, reason=f"no CUDA: {NO_CUDA}")
def test_cuda_runs_every_compute_node(tmp_path: Path) -> None:
    f = export.to_onnx(network, (PARAMS, X), tmp_path / "net.onnx").load(device="cuda")
    assert set(f.placement.values()) == {"CUDAExecutionProvider"}
    out = f(PARAMS, X)
    torch.testing.assert_close(out["h"], network(PARAMS, X)["h"])


def test_another_word_for_a_device_is_an_error(tmp_path: Path) -> None:
    exported = export.to_onnx(network, (PARAMS, X), tmp_path / "net.onnx")
    with pytest.raises(errors.ArgumentError, match="auto, cpu, cuda, got 'gpu'"):
        exported.load(device="gpu")


@pytest.mark.parametrize("content", [b"", b"hello world, this is text", b"PK\x03\x04 a zip file", bytes(1000)])
def test_what_is_no_onnx_file_is_said_to_be_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    path.write_bytes(content)
    with pytest.raises(errors.NotAnOnnxFileError, match="ONNX"):
        export.load(path)


def test_a_truncated_file_and_a_missing_one(tmp_path: Path) -> None:
    exported = export.to_onnx(network, (PARAMS, X), tmp_path / "net.onnx", bake=(0,))
    content = exported.path.read_bytes()
    for size in (10, len(content) // 2, len(content) - 1):
        exported.path.write_bytes(content[:size])
        with pytest.raises(errors.NotAnOnnxFileError if size == 10 else errors.DamagedFileError):
            export.load(exported.path)
    with pytest.raises(errors.LoadError, match="no such file"):
        export.load(tmp_path / "other.onnx")
    with pytest.raises(errors.NotAnOnnxFileError, match="folder"):
        export.load(tmp_path)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """An ONNX file that another program wrote: y = (a + b)."""
    a, b, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("a", "b", "y"))
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["y"])], "g", [a, b], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "foreign.onnx")
    return tmp_path / "foreign.onnx"


def test_a_foreign_file_takes_and_gives_tensors_by_name(foreign: Path) -> None:
    f = export.load(foreign)
    a, b = np.ones(3, np.float32), np.full(3, 2, np.float32)
    for out in (f({"a": a, "b": b}), f(a, b), f(a=a, b=b), f(a, b=b)):
        assert list(out) == ["y"]
        np.testing.assert_array_equal(out["y"], np.full(3, 3, np.float32))
    assert isinstance(f(torch.ones(3), torch.ones(3))["y"], torch.Tensor)
    assert str(f.inputs[0]) == "a: float32[n]"
    with pytest.raises(errors.ArgumentError, match=r"(?s)b: missing.*c: not expected"):
        f({"a": a, "c": b})
    with pytest.raises(errors.ArgumentError, match="a: expected float32, got float64"):
        f(a.astype(np.float64), b)
    with pytest.raises(errors.ArgumentError, match="not written by pure-export"):
        f.bind(a)


def test_a_file_runs_in_a_process_without_torch_onnx_and_pure(tmp_path: Path) -> None:
    exported = export.to_onnx(network, (PARAMS, X), tmp_path / "net.onnx", bake=(0,), dynamic=(None, {0: "batch"}))
    code = f"""
import sys
import export
assert not {{"torch", "onnx", "onnxruntime", "pure"}} & set(sys.modules), "import export is not lazy"
import numpy as np
f = export.load({str(exported.path)!r})
out = f(np.ones((2, 3), np.float32))
print(out["h"].shape, float(out["total"]))
assert not {{"torch", "onnx", "pure"}} & set(sys.modules), sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = float(network(PARAMS, torch.ones(2, 3))["total"])
    shape, total = done.stdout.rsplit(" ", 1)
    assert shape == "(2, 4)"
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert done.stderr == "", "loading on the CPU must be quiet"


Point = collections.namedtuple("Point", "place size")

ALONE = """
import json, sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "pure", "onnx", "onnx_ir", "onnxscript"):
            raise ImportError(f"{name} is forbidden here")
sys.meta_path.insert(0, Forbidden())
import numpy as np
import export
path, given, found = sys.argv[1:]
given = np.load(given)
f = export.load(path)
out = {}
def put(name, value):
    if isinstance(value, dict):
        for key in value: put(f"{name}.{key}", value[key])
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value): put(f"{name}.{i}", item)
    elif isinstance(value, np.ndarray):
        out[name] = value
    else:
        out[name] = np.array(repr(value))
x = given["x"]
rest = [{"point": given["point"], "steps": [3, None]}] if "point" in given else []
for count in (1, len(x)):
    put(str(count), f(*rest, x[:count]))
put("tree", export.weights(path))
np.savez(found, **out)
print(json.dumps([f.signature, [str(leaf) for leaf in f.inputs], type(f(*rest, x)).__name__]))
"""


def alone(path: Path, **given: torch.Tensor) -> tuple[list[Any], dict[str, np.ndarray[Any, Any]]]:
    """Call a file in a process that can import neither torch, pure nor onnx."""
    np.savez(path.with_suffix(".given.npz"), **{name: value.numpy() for name, value in given.items()})
    files = [str(path), str(path.with_suffix(".given.npz")), str(path.with_suffix(".found.npz"))]
    done = subprocess.run([sys.executable, "-c", ALONE, *files], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout), dict(np.load(files[2]))


@pytest.mark.parametrize("external", [False, 1], ids=["inside", "beside"])
def test_every_structure_and_all_weights_come_from_the_file_alone(external: Any, tmp_path: Path) -> None:
    shift = torch.linspace(0, 1, 3)
    params = {"fc": [PARAMS["fc1"]["weight"], (PARAMS["fc1"]["bias"],)], "idle": torch.arange(5)}

    def fn(params: Any, settings: Any, x: torch.Tensor) -> Any:
        h = (x + shift) @ params["fc"][0].T * settings["steps"][0] + params["fc"][1][0]
        return Point({"h": h, "nothing": None}, [h.sum(), settings["point"] * 2, (x.shape[1], "text")])

    point = torch.tensor([1.5, 2.5])
    settings = {"point": point, "steps": [3, None]}
    exported = export.to_onnx(
        fn, (params, settings, X), tmp_path / "f.onnx", bake=(0,), dynamic=(None, None, {0: "n"}), external=external
    )
    (signature, inputs, kind), found = alone(exported.path, point=point, x=X)
    assert signature == "f(settings, x)"
    assert inputs == ["settings.point: float32[2]", "x: float32[n, 3]"]
    assert kind == "Point"
    for count in (1, 5):
        expected = fn(params, settings, X[:count])
        np.testing.assert_allclose(found[f"{count}.0.h"], expected.place["h"].numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[f"{count}.1.0"], expected.size[0].numpy(), rtol=1e-5)
        assert found[f"{count}.1.1"].tolist() == [3, 5]
        assert [str(found[f"{count}.{name}"]) for name in ("0.nothing", "1.2.0", "1.2.1")] == ["None", "3", "'text'"]
    stored = {name: value for name, value in found.items() if name.startswith("tree.")}
    assert set(stored) == {f"tree.{name}" for name in ("params.fc.0", "params.fc.1.0", "params.idle", "closure.shift")}
    assert stored["tree.params.fc.0"].tobytes() == PARAMS["fc1"]["weight"].numpy().tobytes()
    assert stored["tree.params.idle"].tolist() == [0, 1, 2, 3, 4]
    assert stored["tree.closure.shift"].tobytes() == shift.numpy().tobytes()


def test_a_gradient_comes_from_the_file_alone(tmp_path: Path) -> None:
    slope = torch.func.grad(lambda params, x: network(params, x)["h"].square().mean())
    exported = export.to_onnx(slope, (PARAMS, X), tmp_path / "g.onnx", bake=(0,), dynamic=(None, {0: "n"}))
    (signature, _, kind), found = alone(exported.path, x=X)
    assert (signature, kind) == ("f(x)", "dict")
    for count in (1, 5):
        for name, value in slope(PARAMS, X[:count])["fc1"].items():
            np.testing.assert_allclose(found[f"{count}.fc1.{name}"], value.numpy(), rtol=1e-5, atol=1e-6)


def test_namedtuples_come_back_without_their_module(tmp_path: Path) -> None:
    code = """
import collections, sys, torch, export
Pair = collections.namedtuple("Pair", "a b")
export.to_onnx(lambda x: Pair(x, x + 1), (torch.ones(2),), sys.argv[1])
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "f.onnx")], cwd=ROOT, check=True)
    out = export.load(tmp_path / "f.onnx")(torch.ones(2))
    assert type(out).__name__ == "Pair"
    assert out._fields == ("a", "b")
    assert torch.equal(out.b, torch.full((2,), 2.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8])
def test_dtypes_go_through(dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.tensor([1, 2, 3]).to(dtype)
    out = export.to_onnx(lambda x: (x * 2, x > 1, x.sum()), (x,), tmp_path / "f.onnx").load(device="cpu")(x)
    assert torch.equal(out[0], x * 2)
    assert out[0].dtype == dtype
    assert out[1].tolist() == [False, True, True]
    assert out[2] == 6


def test_bfloat16_goes_through_where_the_runtime_has_it(tmp_path: Path) -> None:
    x = torch.tensor([1.5, -2, 3], dtype=torch.bfloat16)
    f = export.to_onnx(lambda x: (x.reshape(3, 1), x.float() * 2), (x,), tmp_path / "f.onnx").load(device="cpu")
    out = f(x)
    assert out[0].dtype == torch.bfloat16
    assert torch.equal(out[0], x.reshape(3, 1))
    assert torch.equal(out[1], x.float() * 2)
    assert torch.equal(f.bind(x)()[0], x.reshape(3, 1))


def test_the_same_inputs_give_the_same_bits(f: export.Loaded) -> None:
    first = f(PARAMS, X)["h"]
    assert all(torch.equal(f(PARAMS, X)["h"], first) for _ in range(5))
