"""Large tensors go into a data file beside the model: both appear whole or not at all, and belong together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import export
import pure
from export import errors
from export.files import protobuf_wire, saving, stored_tensors
from parity_tests import edited_files
from pure import nets
from pure_export_shared import TEMPORARY

ROOT = Path(__file__).resolve().parent.parent
X = torch.linspace(-1, 1, 64).reshape(2, 32)


def made(value: float = 1.0) -> dict[str, torch.Tensor]:
    """Weights on both sides of the threshold, one of them a transposed view, one that nothing reads."""
    return {
        "weight": torch.linspace(-value, value, 32 * 64).reshape(64, 32).T,
        "half": torch.linspace(-value, value, 64 * 64).reshape(64, 64).to(torch.float16),
        "bias": torch.full((64,), value),
        "idle": torch.arange(1000) * int(value),
        "none": torch.empty(0, 4),
    }


def network(params: Any, x: torch.Tensor) -> torch.Tensor:
    h = x @ params["weight"] + params["bias"]
    return torch.tanh(h) @ params["half"].float() + params["none"].sum()


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def write(path: Path, value: float = 1.0, **options: Any) -> export.Exported:
    return export.to_onnx(network, (made(value), X), path, bake=(0,), dynamic=(None, {0: "batch"}), **options)


def right(path: Path, value: float = 1.0) -> bool:
    return bool(torch.allclose(export.load(path, device="cpu")(X), network(made(value), X), rtol=1e-5, atol=1e-5))


def tensors(path: Path) -> dict[str, stored_tensors.Stored]:
    return stored_tensors.find(path, protobuf_wire.read_header(path))


def test_large_tensors_lie_beside_the_model_and_small_ones_inside(tmp_path: Path) -> None:
    exported = write(tmp_path / "f.onnx", external=True)
    assert exported.data is not None
    assert files(tmp_path) == ["f.onnx", exported.data.name]
    assert exported.size == exported.path.stat().st_size + exported.data.stat().st_size
    assert exported.path.stat().st_size < 8000
    outside = {name: tensor for name, tensor in tensors(exported.path).items() if tensor.location}
    assert set(outside) == {"params.weight", "params.half", "params.idle"}
    assert {tensor.location for tensor in outside.values()} == {exported.data.name}
    assert all(tensor.begin % 4096 == 0 for tensor in outside.values())
    onnx.checker.check_model(str(exported.path), full_check=True)
    assert right(exported.path)


@pytest.mark.parametrize(
    ("external", "outside"),
    [
        (None, set()),
        (False, set()),
        (5000, {"params.weight", "params.half", "params.idle"}),
        (8001, {"params.weight", "params.half"}),
        (1, {"params.weight", "params.half", "params.idle", "params.bias"}),
        (10**6, set()),
    ],
)
def test_the_threshold_can_be_chosen(external: Any, outside: set[str], tmp_path: Path) -> None:
    exported = write(tmp_path / "f.onnx", external=external)
    assert {name for name, tensor in tensors(exported.path).items() if tensor.location} == outside
    assert (exported.data is None) == (not outside)
    assert right(exported.path)


@pytest.mark.parametrize("external", [0, -1, "yes", 1.5])
def test_another_threshold_is_refused_before_the_function_runs(external: Any, tmp_path: Path) -> None:
    def never(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the function was run")

    with pytest.raises(errors.ArgumentError, match="external must be None"):
        export.to_onnx(never, (X,), tmp_path / "f.onnx", external=external)
    assert files(tmp_path) == []


def test_a_model_above_the_limit_gets_a_data_file_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf_wire, "MAX_FILE_BYTES", 2**24 + 20_000)
    exported = write(tmp_path / "f.onnx")
    assert exported.data is not None
    assert right(exported.path)


def test_the_same_export_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write(tmp_path / folder / "f.onnx", external=True) for folder in made_folders(tmp_path, "a", "b"))
    assert first.data is not None
    assert second.data is not None
    assert first.data.name == second.data.name
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.data.read_bytes() == second.data.read_bytes()


def made_folders(parent: Path, *names: str) -> list[str]:
    for name in names:
        (parent / name).mkdir()
    return list(names)


def test_values_that_go_straight_to_the_file_give_the_bytes_that_protobuf_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def content(least: int) -> bytes:
        monkeypatch.setattr(saving, "MIN_ASIDE_BYTES", least)
        write(tmp_path / "f.onnx", external=False)
        return (tmp_path / "f.onnx").read_bytes()

    whole = content(2**31)
    assert content(1) == whole
    assert content(4096) == whole
    assert right(tmp_path / "f.onnx")


def test_a_new_export_takes_the_place_of_both_files(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    (tmp_path / "f.onnx.0123456789abcdef.data").write_text("not of this model")
    older = write(path, external=True)
    running = export.load(path, device="cpu")
    newer = write(path, 2.0, external=True)
    assert older.data is not None
    assert newer.data is not None
    assert files(tmp_path) == sorted(["f.onnx", newer.data.name, "f.onnx.0123456789abcdef.data"])
    assert right(path, 2.0)
    assert torch.allclose(running(X), network(made(), X), rtol=1e-5, atol=1e-5), "a session keeps the data it opened"
    again = write(path, 2.0, external=True)
    assert again.data == newer.data
    assert right(path, 2.0)
    write(path, 3.0)
    assert files(tmp_path) == ["f.onnx", "f.onnx.0123456789abcdef.data"]
    assert right(path, 3.0)


def test_a_data_file_that_was_not_named_by_us_is_never_removed(tmp_path: Path) -> None:
    exported = write(tmp_path / "f.onnx")
    model = onnx.load(exported.path)
    edited_files.save(model, exported.path, save_as_external_data=True, location="shared.bin", size_threshold=1024)
    assert right(exported.path)
    write(exported.path, 2.0)
    assert files(tmp_path) == ["f.onnx", "shared.bin"]


FAILURES = {
    "random": (lambda params, x: x + torch.rand(2, 32), errors.RandomOpError),
    "float64 operator that ONNX lacks": (lambda params, x: torch.linalg.svdvals(x), errors.ExportError),
}


@pytest.mark.parametrize(("fn", "kind"), FAILURES.values(), ids=FAILURES)
def test_a_failed_export_leaves_the_older_pair_alone(fn: Any, kind: type[Exception], tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    write(path, external=True)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(kind):
        export.to_onnx(fn, (made(2.0), X), path, bake=(0,), external=True)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


@pytest.mark.parametrize("moment", ["check", "move"])
@pytest.mark.parametrize("older", [None, 1.0, 2.0])
def test_a_failure_after_the_data_leaves_no_data(
    moment: str, older: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.onnx"
    if older is not None:
        write(path, older, external=True)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}

    def fails(*_: object, **__: object) -> None:
        assert len(files(tmp_path)) >= 2
        raise KeyboardInterrupt

    real = os.replace
    if moment == "check":
        monkeypatch.setattr(onnx.checker, "check_model", fails)
    else:
        monkeypatch.setattr(os, "replace", lambda a, b: fails() if Path(b) == path else real(a, b))
    with pytest.raises(KeyboardInterrupt):
        write(path, 2.0, external=True)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before
    if older is not None:
        assert right(path, older)


STOP = """
import json, os, shutil, signal, sys, torch, export
torch.set_num_threads(1)
folder, older, x = sys.argv[1], sys.argv[2] == "True", torch.ones(2, 40)
def write(value, path):
    weight = torch.full((40, 40), value)
    export.to_onnx(lambda w, x: x @ w, (weight, x), path, bake=(0,), external=True)
def counted(function):
    def call(*args):
        global step
        step -= 1
        if step == 0: os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return call
write(2.0, folder + "/warm.onnx")
endings = []
while not endings or endings[-1]:
    step = len(endings) + 1
    os.mkdir(f"{folder}/{step}")
    path = f"{folder}/{step}/f.onnx"
    if older: write(2.0, path)
    child = os.fork()
    if not child:
        os.fsync, os.replace, os.unlink = counted(os.fsync), counted(os.replace), counted(os.unlink)
        write(3.0, path)
        os._exit(0)
    endings.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(endings))
"""


@pytest.mark.parametrize("older", [False, True])
def test_a_kill_at_any_step_leaves_a_whole_pair(older: bool, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOP, str(tmp_path), str(older)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    endings = json.loads(done.stdout)
    assert len(endings) > 6, "both files and the folder are made durable, moved, and what is old is removed"
    assert endings == [-signal.SIGKILL] * (len(endings) - 1) + [0]
    seen = []
    for step in range(1, len(endings) + 1):
        folder = tmp_path / str(step)
        path = folder / "f.onnx"
        for name in files(folder):
            assert name == "f.onnx" or name.endswith((TEMPORARY, ".data")), name
        value = float(export.load(path, device="cpu")(torch.ones(2, 40))[0, 0]) / 40 if path.exists() else None
        seen.append(value)
    assert seen == sorted(seen, key=lambda value: value == 3.0), "never back from the new pair to the old one"
    assert set(seen) == ({2.0, 3.0} if older else {None, 3.0})
    assert len(files(tmp_path / str(len(endings)))) == 2


def test_a_missing_or_cut_data_file_is_named(tmp_path: Path) -> None:
    exported = write(tmp_path / "f.onnx", external=True)
    assert exported.data is not None
    content = exported.data.read_bytes()
    exported.data.write_bytes(content[:-1])
    for use in (export.load, export.weights, lambda path: export.replace_weights(path, {"params": made()})):
        with pytest.raises(
            errors.DataFileError, match=rf"{exported.data.name} is cut short: it has {len(content) - 1}"
        ):
            use(exported.path)
    exported.data.rename(tmp_path / "elsewhere.data")
    for use in (export.load, export.weights, lambda path: export.replace_weights(path, {"params": made()})):
        with pytest.raises(errors.DataFileError, match=rf"(?s)3 of its tensors in {exported.data.name}.*not beside it"):
            use(exported.path)
    (tmp_path / "elsewhere.data").rename(exported.data)
    exported.data.write_bytes(content)
    assert right(exported.path)


@pytest.mark.parametrize("location", ["../secret.data", "{folder}/secret.data"])
def test_a_model_may_not_reach_outside_of_its_folder(location: str, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    exported = write(tmp_path / "inner" / "f.onnx")
    model = onnx.load(exported.path)
    (tmp_path / "secret.data").write_bytes(bytes(10**5))
    tensor = next(t for t in model.graph.initializer if t.name == "params.weight")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location.format(folder=tmp_path))
    exported.path.write_bytes(model.SerializeToString())
    with pytest.raises(errors.DamagedFileError, match="the graph"):
        export.load(exported.path)
    for use in (export.load, export.weights):
        with pytest.raises(errors.DataFileError, match="outside of its own folder"):
            use(exported.path, check=False)


def test_the_pair_moves_together_and_is_read_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = write(tmp_path / "f.onnx", external=True)
    assert exported.data is not None
    (tmp_path / "there").mkdir()
    exported.data.rename(tmp_path / "there" / exported.data.name)
    exported.path.rename(tmp_path / "there" / "other name.onnx")
    assert right(tmp_path / "there" / "other name.onnx")
    monkeypatch.chdir(tmp_path / "there")
    assert right(Path("other name.onnx"))
    monkeypatch.chdir(tmp_path)
    assert right(Path("there/other name.onnx"))


def linked(kind: str, folder: Path) -> Path:
    """Return the model of a folder, its files links to blobs as in the Hub's cache, or with a second name each."""
    (folder / "blobs").mkdir()
    for number, name in enumerate(name for name in files(folder) if name != "blobs"):
        blob = folder / "blobs" / str(number)
        if kind == "hard links":
            os.link(folder / name, blob)
        else:
            (folder / name).rename(blob)
            (folder / name).symlink_to(Path("blobs") / str(number))
    return next(folder.glob("*.onnx"))


@pytest.mark.parametrize("kind", ["cache of the Hub", "hard links"])
def test_files_that_are_links_are_read_and_judged(kind: str, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    write(tmp_path / "ours" / "f.onnx", external=True)
    path = linked(kind, tmp_path / "ours")
    assert right(path)
    assert np.array_equal(export.weights(path)["params"]["weight"], made()["weight"].numpy())
    assert export.memory(path, sizes={"batch": 2}).peak_bytes > 0
    assert export.verify(network, (made(), X), path, bake=(0,), dynamic=(None, {0: "batch"}), device="cpu")

    (tmp_path / "theirs").mkdir()
    weight = onnx.numpy_helper.from_array(np.full((2, 32), 0.5, np.float32), "w")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 32]) for name in "xy"]
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    outside = {"save_as_external_data": True, "location": "w.data", "size_threshold": 0}
    onnx.save(model, tmp_path / "theirs" / "m.onnx", **outside)
    path = linked(kind, tmp_path / "theirs")
    with pytest.raises(onnx.checker.ValidationError, match="link"):
        onnx.load(path)
    assert export.verify(lambda x: x + 0.5, (X,), path, device="cpu")
    assert not export.verify(lambda x: x + 0.6, (X,), path, device="cpu")


def test_a_file_with_data_beside_it_is_judged_like_any_other(tmp_path: Path) -> None:
    def branches(params: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > -5, lambda a: a @ params["w"], lambda a: a @ params["w"].sin(), (x,))

    params = {"w": torch.linspace(-1, 1, 32 * 32).reshape(32, 32)}
    path = tmp_path / "f.onnx"
    export.to_onnx(branches, (params, X), path, bake=(0,), dynamic=(None, {0: "batch"}), external=True)
    assert len(files(tmp_path)) == 2
    verdict = export.verify(branches, (params, X), path, dynamic=(None, {0: "batch"}), bake=(0,), device="cpu")
    assert verdict.passed, verdict.table()
    assert verdict.predicates
    assert {row.case for row in verdict.rows} >= {"batch=7", "forced true", "forced false"}


def test_a_wrong_file_with_data_beside_it_is_localised(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    export.to_onnx(network, (made(), X), path, bake=(0,), external=True)
    model = onnx.load(path, load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "Tanh")
    node.op_type = "Sin"
    edited_files.save(model, path)
    verdict = export.verify(network, (made(), X), path, bake=(0,), device="cpu")
    assert not verdict.passed
    assert verdict.divergence is not None
    assert verdict.divergence.op == "Sin"
    folder = Path(verdict.divergence.reproduction)
    shown = subprocess.run([sys.executable, "reproduce.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert shown.returncode == 1, shown.stderr
    assert "(the first node that differs)" in shown.stdout


def test_gradients_of_a_network_with_data_beside_them(tmp_path: Path) -> None:
    block = nets.create("residual_mlp", features=8, hidden_features=40, depth=3)
    params, _ = block.init(torch.Generator().manual_seed(0))
    x = torch.linspace(-1, 1, 24).reshape(3, 8)

    def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
        return block(params, x).square().mean()

    slope = torch.func.grad(loss)
    exported = export.to_onnx(slope, (params, x), tmp_path / "g.onnx", bake=(0,), external=True)
    assert exported.data is not None
    verdict = export.verify(slope, (params, x), exported.path, bake=(0,), device="cpu")
    assert verdict.passed, verdict.table()
    assert set(pure.flatten(exported.load(device="cpu")(x))) == set(pure.flatten(params))


LARGE = """
import pathlib, resource, sys, torch, export
count, size = int(sys.argv[2]), int(sys.argv[3])
params = {str(i): torch.full((size // 4096, 1024), float(i + 1)) for i in range(count)}
params["turned"] = torch.full((1024, size // 4096), 0.5).T
def fn(params, x):
    return sum((x * p[:4, :2].sum()) + p[-1, -1] for p in params.values())
x = torch.ones(2)
export.to_onnx(fn, ({"0": x[None]}, x), sys.argv[1] + ".warm", bake=(0,), external=1)
def peak():
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # ru_maxrss begins with the peak of the process that started this one
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
external = {"auto": None, "external": True, "inside": False}[sys.argv[4]]
before = peak()
exported = export.to_onnx(fn, (params, x), sys.argv[1], bake=(0,), external=external)
print(peak() - before, exported.size, exported.path.stat().st_size, float(fn(params, x)[0]))
"""


def exported_elsewhere(path: Path, count: int, size: int, mode: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(path), str(count), str(size), mode],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [float(word) for word in done.stdout.split()]


@pytest.mark.parametrize("mode", ["external", "inside"])
def test_an_export_holds_about_one_tensor_more(mode: str, tmp_path: Path) -> None:
    count, size = 8, 2**25
    extra, whole, model, _ = exported_elsewhere(tmp_path / "f.onnx", count, size, mode)
    assert whole > count * size
    assert model < 2**17 if mode == "external" else model == whole
    assert extra < 2 * size, f"{extra / size:.1f} tensors more in memory"


@pytest.mark.slow
def test_a_model_of_more_than_two_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    size = 2**28
    try:
        extra, whole, model, expected = exported_elsewhere(path, 8, size, "auto")
        assert whole > 9 * size > 2**31
        assert model < 2**17
        assert extra < 2 * size, f"{extra / size:.1f} tensors more in memory"
        onnx.checker.check_model(str(path), full_check=True)
        f = export.load(path, device="cpu")
        assert f(np.ones(2, np.float32)).tolist() == pytest.approx([expected] * 2, rel=1e-6)
        names = tensors(path)
        assert stored_tensors.read(path, names["params.7"])[-1, -1] == 8
        assert stored_tensors.read(path, names["params.turned"]).shape == (size // 4096, 1024)
    finally:
        for file in tmp_path.iterdir():
            file.unlink()
