"""A file is a checkpoint: its weights come back bit for bit, and are replaced without a new export."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch.func import grad

import export
import pure
import pure_export_shared
from export import errors
from pure import nets

ROOT = Path(__file__).resolve().parent.parent
Pair = namedtuple("Pair", "first second")
X = torch.linspace(-1, 1, 12).reshape(3, 4)
FILES = pytest.mark.parametrize("external", [False, True, 1], ids=["inside", "beside", "all beside"])


def made(seed: int) -> dict[str, Any]:
    """A tree of every container and dtype, with bits that arithmetic would not keep: NaN payloads, −0.0, subnormals."""
    generator = torch.Generator().manual_seed(seed)

    def bits(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        size = torch.empty((), dtype=dtype).element_size()
        raw = torch.randint(0, 256, (*shape, size), dtype=torch.uint8, generator=generator)
        return raw.view(dtype).reshape(shape)

    turned = torch.randn(2, 300, generator=generator)
    return {
        "layers": [
            {"weight": torch.randn(4, 300, generator=generator)},
            {"weight": turned.T},
        ],
        "pair": Pair(bits(torch.float32, 30, 30), bits(torch.float64, 5)),
        "halves": (bits(torch.float16, 700), bits(torch.bfloat16, 700)),
        "count": torch.tensor(seed),
        "small": bits(torch.int32, 3, 1),
        "mask": torch.rand(7, generator=generator) > 0.5,
        "empty": torch.empty(0, 3),
        "static": 3,
        "nothing": None,
    }


def network(params: Any, x: torch.Tensor) -> Any:
    h = x @ params["layers"][0]["weight"] @ params["layers"][1]["weight"]
    return {"h": h, "count": params["count"] + x.shape[0], "mask": params["mask"] & True}


def write(path: Path, seed: int = 0, **options: Any) -> export.Exported:
    return export.to_onnx(network, (made(seed), X), path, bake=(0,), dynamic=(None, {0: "n"}), **options)


def raw(value: Any) -> bytes:
    return bytes(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def flat(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for key in tree for leaf in flat(tree[key])]
    return [leaf for item in tree for leaf in flat(item)] if isinstance(tree, (list, tuple)) else [tree]


def same_bits(mine: Any, other: Any) -> bool:
    pairs = list(zip(flat(mine), flat(other), strict=True))
    return all(
        (a.dtype, a.shape, raw(a)) == (b.dtype, b.shape, raw(b)) if isinstance(a, torch.Tensor) else a == b
        for a, b in pairs
    )


@FILES
def test_the_tree_comes_back_bit_for_bit(external: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "f.onnx", external=external).path
    found = export.weights(path, "torch")
    assert list(found) == ["params"]
    tree = found["params"]
    assert same_bits(tree, made(0))
    assert isinstance(tree["pair"], Pair)
    assert isinstance(tree["halves"], tuple)
    assert (tree["static"], tree["nothing"]) == (3, None)
    torch.testing.assert_close(export.load(path)(X)["h"], network(tree, X)["h"])


def test_numpy_has_the_same_bits(tmp_path: Path) -> None:
    tree = export.weights(write(tmp_path / "f.onnx").path)["params"]
    assert tree["halves"][1].dtype.name == "bfloat16"
    for mine, other in zip(flat(tree), flat(made(0)), strict=True):
        if isinstance(other, torch.Tensor):
            assert isinstance(mine, np.ndarray)
            assert (mine.dtype.name, mine.shape) == (str(other.dtype).removeprefix("torch."), tuple(other.shape))
            assert mine.tobytes() == raw(other)
    tree["layers"][0]["weight"][:] = 0  # memory of its own
    with pytest.raises(errors.ArgumentError, match="'numpy' or 'torch', got 'jax'"):
        export.weights(tmp_path / "f.onnx", "jax")  # type: ignore[arg-type]


@FILES
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_other_weights_give_the_file_that_an_export_with_them_gives(external: Any, kind: Any, tmp_path: Path) -> None:
    old, new = (write(tmp_path / f"{seed}.onnx", seed, external=external) for seed in (0, 1))
    before = old.path.read_bytes()
    out = export.replace_weights(old.path, export.weights(new.path, kind), tmp_path / "out.onnx")
    assert out == tmp_path / "out.onnx"
    assert same_bits(export.weights(out, "torch"), {"params": made(1)})
    assert old.path.read_bytes() == before
    onnx.checker.check_model(str(out), full_check=True)
    own, exported = (onnx.load(path, load_external_data=False) for path in (out, new.path))
    if external:
        assert new.data is not None
        (data,) = tmp_path.glob("out.onnx.*.data")
        assert data.read_bytes() == new.data.read_bytes()
    for model in (own, exported):
        for tensor in model.graph.initializer:
            if tensor.external_data:
                tensor.external_data[0].value = "the data file, which is called after the model"
    if external:  # the data file's name is part of the graph, and so of its digest
        for model in (own, exported):
            (held,) = (entry for entry in model.metadata_props if entry.key == "pure_export.digest")
            held.value = re.sub(r"size=\d+ graph=[0-9a-f]{8}", "", held.value)
    assert own == exported
    assert torch.equal(export.load(out)(X)["h"], export.load(new.path)(X)["h"])


@FILES
def test_a_file_is_replaced_in_its_own_place(external: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "f.onnx", external=external).path
    running = export.load(path, device="cpu")
    before = running(X)["h"].clone()
    assert export.replace_weights(path, {"params": made(1)}) == path
    assert same_bits(export.weights(path, "torch"), {"params": made(1)})
    assert torch.equal(running(X)["h"], before)
    assert len(os.listdir(tmp_path)) == (2 if external else 1)


@FILES
def test_weights_are_given_at_load(external: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "f.onnx", external=external).path
    other = write(tmp_path / "other.onnx", 1, external=external)
    params = made(1)
    f = export.load(path, device="cpu", weights={"params": params})
    expected = other.load(device="cpu")(X)
    params["layers"][0]["weight"].zero_()
    for given in (X, X[:2]):
        found = f(given)
        assert torch.equal(found["h"], other.load(device="cpu")(given)["h"])
    assert int(f(X)["count"]) == 4
    assert torch.equal(f(X)["mask"], expected["mask"])
    assert same_bits(export.weights(path, "torch"), {"params": made(0)}), "the file stays"


def test_given_weights_reach_what_the_runtime_folds_before_it_runs(tmp_path: Path) -> None:
    """ONNX Runtime computes everything that depends on weights alone when it loads, and fuses BatchNorm into Conv."""
    shapes = {"weight": (4, 3, 3, 3), "scale": (4,), "bias": (4,), "mean": (4,), "variance": (4,), "idle": (9,)}

    def drawn(seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}

    def fn(params: Any, x: torch.Tensor) -> torch.Tensor:
        h = torch.nn.functional.conv2d(x, params["weight"])
        h = torch.nn.functional.batch_norm(h, params["mean"], params["variance"], params["scale"], params["bias"])
        return h + params["weight"].transpose(0, 1).exp().sum()

    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    first, second = (export.to_onnx(fn, (drawn(i), x), tmp_path / f"{i}.onnx", bake=(0,)) for i in (0, 1))
    params = drawn(1)
    f = export.load(first.path, device="cpu", weights={"params": params})
    assert torch.equal(f(x), second.load(device="cpu")(x))
    assert not torch.equal(f(x), first.load(device="cpu")(x))
    export.replace_weights(first.path, {"params": params})
    assert torch.equal(export.load(first.path, device="cpu")(x), f(x))


def test_one_argument_may_be_replaced_and_the_others_stay(tmp_path: Path) -> None:
    def fn(params: Any, state: Any, x: torch.Tensor) -> torch.Tensor:
        return x * params["a"] + state["b"]

    one, two = torch.tensor([1.0, 2]), torch.tensor([3.0, 4])
    path = export.to_onnx(fn, ({"a": one}, {"b": one}, one), tmp_path / "f.onnx", bake=(0, 1)).path
    assert torch.equal(export.load(path, weights={"state": {"b": two}})(one), one * one + two)
    export.replace_weights(path, {"state": {"b": two}})
    assert same_bits(export.weights(path, "torch"), {"params": {"a": one}, "state": {"b": two}})
    assert torch.equal(export.load(path)(one), one * one + two)


def test_parameters_that_require_grad_are_taken(tmp_path: Path) -> None:
    path = export.to_onnx(lambda w, x: w * x, (torch.ones(2), torch.ones(2)), tmp_path / "f.onnx", bake=(0,)).path
    weight = torch.nn.Parameter(torch.tensor([5.0, 6.0]))
    assert export.load(path, weights={"w": weight})(torch.ones(2)).tolist() == [5, 6]
    export.replace_weights(path, {"w": weight})
    assert export.load(path)(torch.ones(2)).tolist() == [5, 6]


def test_a_gradient_keeps_its_structure_with_other_weights(tmp_path: Path) -> None:
    block = nets.create("residual_mlp", features=4, hidden_features=8, depth=2)
    trees = [block.init(torch.Generator().manual_seed(seed))[0] for seed in (0, 1)]
    slope = grad(lambda params, x: block(params, x).square().sum())
    path = export.to_onnx(slope, (trees[0], X), tmp_path / "g.onnx", bake=(0,)).path
    export.replace_weights(path, {"params": trees[1]})
    verdict = export.verify(slope, (trees[1], X), path, bake=(0,), device="cpu")
    assert verdict.passed, verdict.table()


def test_a_trained_checkpoint_goes_into_a_file(tmp_path: Path) -> None:
    block = nets.create("simple_block", in_features=4, hidden_features=5, out_features=2)
    params, _ = block.init(torch.Generator().manual_seed(0))
    path = export.to_onnx(block, (params, X), tmp_path / "f.onnx", bake=(0,)).path
    trained = pure.unflatten({name: leaf + 1 for name, leaf in pure.flatten(params).items()})
    pure.save(trained, tmp_path / "trained.safetensors")
    export.replace_weights(path, {"params": pure.load(tmp_path / "trained.safetensors")})
    torch.testing.assert_close(export.load(path)(X), block(trained, X))
    assert same_bits(export.weights(path, "torch")["params"], trained)


def wrong(tree: dict[str, Any]) -> dict[str, Any]:
    del tree["count"]
    return {
        **tree,
        "layers": [{"weight": torch.ones(4, 30)}, {"wieght": torch.ones(1)}],
        "pair": Pair(torch.ones(30, 30, dtype=torch.float64), np.ones(5)),
        "halves": [1, 2],
        "mask": True,
        "static": 4,
        "more": torch.ones(1),
    }


EXPECTED = (
    "params.layers.0.weight: axis 1 must be 300, got 30",
    "params.layers.1.weight: missing (did you mean 'wieght'?)",
    "params.layers.1.wieght: not expected",
    "params.pair.first: expected float32, got float64",
    "params.halves: expected a tuple of 2",
    "params.count: missing",
    "params.mask: expected a tensor, got the number True",
    "params.static: was exported with the constant 3, got 4",
    "params.more: not expected",
    "x: not inside the file but an argument of the call",
    "parms: not in the file (did you mean 'params'?)",
)


@FILES
def test_everything_that_does_not_fit_is_in_one_message_and_nothing_is_written(external: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "f.onnx", external=external).path
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    given = {"params": wrong(made(1)), "x": X, "parms": {}}
    for use in (lambda: export.replace_weights(path, given), lambda: export.load(path, weights=given)):
        with pytest.raises(errors.ArgumentError, match=r"the weights do not fit f\.onnx") as caught:
            use()
        missing = [part for part in EXPECTED if part not in str(caught.value)]
        assert not missing, f"{missing} not in {caught.value}"
        assert str(caught.value).count("\n") == len(EXPECTED) + 1, "params.layers.0 has one problem, pair.second none"
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


@pytest.mark.parametrize("given", [{}, [1], None])
def test_weights_are_a_dict(given: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "f.onnx").path
    with pytest.raises(errors.ArgumentError, match=r"such as \{'params': tree\}"):
        export.replace_weights(path, given)


def test_captured_tensors_are_read_but_not_replaced(tmp_path: Path) -> None:
    """Python may read a captured tensor's value while the function is recorded; the file would keep the old number."""
    scale = torch.tensor(2.0)
    path = export.to_onnx(lambda x: x * float(scale) + scale, (X,), tmp_path / "f.onnx").path
    found = export.weights(path, "torch")
    assert list(found) == ["closure"]
    assert torch.equal(found["closure"]["scale"], scale)
    with pytest.raises(errors.ArgumentError, match="closure: tensors that the function captured stay"):
        export.replace_weights(path, {"closure": {"scale": torch.tensor(3.0)}})
    with pytest.raises(errors.ArgumentError, match=r"params: not in the file; export it with bake=\(0,\)"):
        export.load(path, weights={"params": {}})


def test_a_file_from_elsewhere_has_tensors_by_name(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    typed = onnx.helper.make_tensor("b", onnx.TensorProto.FLOAT, [3], [1.0, 2, 3])
    x, y = (onnx.helper.make_tensor_value_info(name, 1, ["n", size]) for name, size in (("x", 2), ("y", 3)))
    node = onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [x], [y], [weight, typed])
    path = tmp_path / "f.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    assert export.weights(path)["b"].tolist() == [1, 2, 3]
    assert export.weights(path)["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    ones = np.ones((1, 2), np.float32)
    new = {"w": np.zeros((2, 3), np.float32), "b": np.full(3, 7, np.float32)}
    assert export.load(path, weights=new)(ones)["y"].tolist() == [[7, 7, 7]]
    export.replace_weights(path, new)
    assert export.load(path)(ones)["y"].tolist() == [[7, 7, 7]]
    with pytest.raises(errors.ArgumentError, match=r"(?s)wieght: not in the file.*w: expected float32, got float64"):
        export.replace_weights(path, {"wieght": ones, "w": np.zeros((2, 3))})


def test_values_that_are_not_stored_as_bytes_are_refused(tmp_path: Path) -> None:
    index = onnx.helper.make_tensor("i", onnx.TensorProto.INT64, [2], [1, 0])
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [2]) for name in ("x", "y"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Gather", ["x", "i"], ["y"])], "g", [x], [y], [index])
    path = tmp_path / "f.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    with pytest.raises(errors.LoadError, match=r"i: int64\[2\] is not stored as plain bytes"):
        export.weights(path)
    new = {"i": np.array([0, 0])}
    assert export.load(path, weights=new)(np.array([5, 6], np.float32))["y"].tolist() == [5, 5]
    export.replace_weights(path, new)
    assert export.weights(path)["i"].tolist() == [0, 0]


@pytest.mark.parametrize("external", [False, True])
def test_a_failed_replacement_leaves_the_file_alone(
    external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "f.onnx", external=external).path
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    real = os.replace

    def full(source: str, target: Any) -> None:
        if Path(target) == path:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(pure_export_shared.os, "replace", full)
    with pytest.raises(errors.WriteError, match=r"cannot write .*f\.onnx: No space left"):
        export.replace_weights(path, {"params": made(1)})
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


ELSEWHERE = """
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "pure", "onnx", "onnx_ir", "onnxscript"):
            raise ImportError(f"{name} is forbidden here")
sys.meta_path.insert(0, Forbidden())
import numpy as np
import export
path, out = sys.argv[1:]
tree = export.weights(path)
assert tree["params"]["pair"].second.shape == (5,)
tree["params"]["layers"][0]["weight"] = np.zeros_like(tree["params"]["layers"][0]["weight"])
x = np.ones((2, 4), np.float32)
given = export.load(path, weights=tree)(x)["h"]
export.replace_weights(path, tree, out)
again = export.load(out)(x)["h"]
assert np.array_equal(given, again) and not given.any() and export.load(path)(x)["h"].any()
print("done")
"""


@pytest.mark.parametrize("external", [False, True])
def test_it_all_works_without_torch_and_onnx(external: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "f.onnx", external=external).path
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(path), str(tmp_path / "out.onnx")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
    tree = export.weights(tmp_path / "out.onnx", "torch")["params"]
    assert not tree["layers"][0]["weight"].any()
    assert same_bits(tree["halves"], made(0)["halves"])
