"""Damaged files are refused by a typed error that names what is damaged; none loads as if nothing had happened."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import export
from export import errors
from export.files import digest, opening
from export.graph.model_file import read_model
from parity_tests import edited_files, mutated_files

PARAMS = {"weight": torch.linspace(-1, 1, 64 * 64).reshape(64, 64), "bias": torch.arange(64.0)}
X = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))


def network(params: Any, x: torch.Tensor) -> Any:
    return {"y": torch.tanh(x @ params["weight"] + params["bias"])}


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    return export.to_onnx(network, (PARAMS, X), tmp_path / "inside.onnx", bake=(0,)).path


@pytest.fixture
def beside(tmp_path: Path) -> tuple[Path, Path]:
    exported = export.to_onnx(network, (PARAMS, X), tmp_path / "beside.onnx", bake=(0,), external=100)
    assert exported.data is not None
    return exported.path, exported.data


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def refused(path: Path) -> tuple[str, ...]:
    """Return what is said to be damaged, which everything that reads the file must agree on."""
    found = set()
    for use in (export.load, export.weights, lambda p: export.verify(network, (PARAMS, X), p)):
        with pytest.raises(errors.DamagedFileError) as raised:
            use(path)
        assert all(part in str(raised.value) for part in raised.value.damaged)
        found.add(raised.value.damaged)
    with pytest.raises(errors.DamagedFileError):
        export.replace_weights(path, {"params": PARAMS})
    (damaged,) = found
    return damaged


def where(path: Path, text: bytes) -> int:
    return path.read_bytes().rindex(text)


@pytest.mark.parametrize("name", ["params.weight", "params.bias"])
def test_a_tensor_is_named(name: str, inside: Path) -> None:
    flip(inside, opening.open_model(inside).tensors[name].begin + 100)
    assert refused(inside) == (f"tensor {name}",)


def test_the_graph_and_the_metadata_are_named(inside: Path) -> None:
    sound = inside.read_bytes()
    flip(inside, where(inside, b"Tanh"))
    assert refused(inside) == ("the graph",)
    inside.write_bytes(sound)
    flip(inside, where(inside, b'"function"') + 2)
    assert refused(inside) == ("the metadata",)


def test_a_damaged_digest_is_no_excuse(inside: Path) -> None:
    sound = inside.read_bytes()
    flip(inside, where(inside, b"crc32 size") + 1)
    assert refused(inside) == ("its digest",)
    inside.write_bytes(sound)
    flip(inside, where(inside, b"pure_export.digest"))
    assert refused(inside) == ("its digest, which is missing",)


@pytest.mark.parametrize("lost", [1, 100, 10_000])
def test_the_bytes_that_a_cut_file_lost_are_counted(lost: int, inside: Path) -> None:
    content = inside.read_bytes()
    inside.write_bytes(content[:-lost])
    (damage,) = refused(inside)
    assert (
        damage
        == f"cut short by {'1 byte' if lost == 1 else f'{lost} bytes'} (it has {len(content) - lost} of {len(content)})"
    )


def test_a_data_file_is_named(beside: tuple[Path, Path]) -> None:
    path, data = beside
    sound = data.read_bytes()
    flip(data, 5)
    assert refused(path) == (f"tensor params.weight in {data.name}",)
    data.write_bytes(sound + b"\0")
    longer = f"longer by 1 byte (it has {len(sound) + 1}, not {len(sound)})"
    assert refused(path) == (f"the data file {data.name}, {longer}",)
    data.write_bytes(sound)
    flip(data, 64 * 64 * 4 - 1)
    assert refused(path) == (f"tensor params.weight in {data.name}",)
    data.write_bytes(sound)
    export.load(path)


def test_what_lies_between_the_tensors_of_a_data_file_counts_too(tmp_path: Path) -> None:
    params = {"weight": torch.ones(3, 64), "bias": torch.ones(64)}

    def thin(p: Any, x: torch.Tensor) -> torch.Tensor:
        return x @ p["weight"].T @ p["weight"] + p["bias"]

    exported = export.to_onnx(thin, (params, X), tmp_path / "f.onnx", bake=(0,), external=100)
    assert exported.data is not None
    flip(exported.data, 1000)  # 768 bytes of a tensor, and the next one begins at a page
    with pytest.raises(errors.DamagedFileError, match=f"the data file {exported.data.name}"):
        export.load(exported.path)


def test_a_file_that_another_program_changed(inside: Path) -> None:
    model = onnx.load(inside)
    onnx.save(model, inside)
    export.load(inside)  # the same content in another order of fields
    model.doc_string = "changed"
    onnx.save(model, inside)
    assert refused(inside)[1:] == ("the metadata",)
    with pytest.raises(errors.DamagedFileError, match=r"another program changed it on purpose.*check=False"):
        export.load(inside)
    assert export.load(inside, check=False)(X)["y"].shape == (2, 64)
    assert export.verify(network, (PARAMS, X), inside, check=False).passed
    assert export.weights(inside, check=False)["params"]["bias"].tolist() == PARAMS["bias"].tolist()
    renewed = export.replace_weights(inside, {"params": PARAMS}, inside.with_name("out.onnx"), check=False)
    export.load(renewed)
    edited_files.save(model, inside)
    export.load(inside)


def test_replaced_tensors_renew_the_digest(inside: Path, beside: tuple[Path, Path]) -> None:
    for path in (inside, beside[0]):
        before = path.read_bytes()[:200]
        export.replace_weights(path, {"params.bias": -PARAMS["bias"]})
        assert path.read_bytes()[:200] != before
        assert export.weights(path)["params"]["bias"][1] == -1
        export.load(path)


def test_files_from_elsewhere_and_older_ones_have_no_digest(inside: Path) -> None:
    model = onnx.load(inside)
    call = next(entry for entry in model.metadata_props if entry.key == "pure_export.call")
    content = json.loads(call.value)
    assert content.pop("digest") is True
    call.value = json.dumps(content)
    del model.metadata_props[0]
    onnx.save(model, inside)
    export.load(inside)
    export.replace_weights(inside, {"params.bias": PARAMS["bias"]})
    assert "pure_export.digest" not in opening.open_model(inside).header.metadata
    digest.renew(inside)
    export.load(inside)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"format": "1"}',
        '{"format": 1}',
        '{"format": 1, "function": "f", "arguments": [{}], "leaves": [], "out": {}, "dynamic": [], "versions": {}}',
    ],
)
def test_metadata_that_is_no_call_is_a_typed_error(text: str, inside: Path) -> None:
    model = onnx.load(inside)
    next(entry for entry in model.metadata_props if entry.key == "pure_export.call").value = text
    onnx.save(model, inside)
    for use in (export.load, export.weights):
        with pytest.raises(errors.DamagedFileError, match=r"pure_export\.call, which says how the function is called"):
            use(inside, check=False)


def test_a_tensor_that_is_elsewhere_and_nowhere_is_a_typed_error(beside: tuple[Path, Path]) -> None:
    path, _ = beside
    path.write_bytes(path.read_bytes().replace(b"\x08location", b"\x08locatiom"))
    with pytest.raises(errors.LoadError, match=r"params\.weight.* is not stored as plain bytes"):
        export.weights(path, check=False)
    with pytest.raises(errors.LoadError):
        export.load(path, check=False)


@pytest.mark.parametrize("key", ["name", "structure", "baked"])
def test_an_argument_that_lost_something_is_a_typed_error(key: str, inside: Path) -> None:
    def lose(call: dict[str, Any]) -> None:
        del call["arguments"][0][key]

    damaged_call(inside, lose)


@pytest.mark.parametrize(
    "structure",
    [
        {"leaf": 7},
        {"leaf": "0"},
        {"list": 3},
        {"what": 1},
        {},
        {"namedtuple": {"type": "a:B", "fields": ["class"], "items": [{"leaf": 0}]}},
        {"namedtuple": {"type": "a:B", "fields": [], "items": [{"leaf": 0}]}},
    ],
)
def test_a_structure_that_is_none_is_a_typed_error(structure: Any, inside: Path) -> None:
    def replace(call: dict[str, Any]) -> None:
        call["out"]["structure"] = structure

    damaged_call(inside, replace)


def damaged_call(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    model = onnx.load(path)
    entry = next(entry for entry in model.metadata_props if entry.key == "pure_export.call")
    call = json.loads(entry.value)
    change(call)
    entry.value = json.dumps(call)
    edited_files.save(model, path)
    with pytest.raises(errors.DamagedFileError, match="which says how the function is called"):
        export.load(path)


def test_damaged_files_of_ours_are_all_refused(tmp_path: Path) -> None:
    samples = mutated_files.ours()
    mutated_files.write(samples, tmp_path)
    counts: collections.Counter[str] = collections.Counter()
    for outcome in mutated_files.outcomes(samples, tmp_path, range(300)):
        wrong = {use: what for use, what in outcome.uses.items() if mutated_files.is_wrong(use, what, "ours")}
        assert not wrong, (outcome.sample, outcome.damage, wrong)
        counts[outcome.uses["load"]] += 1
    assert counts["DamagedFileError"] > 250


def test_the_sound_files_load(tmp_path: Path) -> None:
    samples = mutated_files.ours()
    mutated_files.write(samples, tmp_path)
    for sample in samples:
        uses = mutated_files.through(sample, tmp_path / sample.name / "model.onnx")
        if sample.name == "quantised":  # its tensors are no longer those of the call, which `weights` says
            uses = {use: what for use, what in uses.items() if use.startswith("load")}
        assert set(uses.values()) == {"silent"}, (sample.name, uses)


@pytest.mark.filterwarnings("ignore:The tensor attributes self.cell:UserWarning")
def test_damaged_files_of_torch_never_end_in_an_untyped_error(tmp_path: Path) -> None:
    """In a worker, as in the long run, so that the end of its process would be counted; and nothing is printed."""
    mutated_files.write(mutated_files.theirs(), tmp_path)
    counts: collections.Counter[str] = collections.Counter()
    for outcome in mutated_files.run("theirs", tmp_path, 200):
        wrong = {use: what for use, what in outcome.uses.items() if mutated_files.is_wrong(use, what, "theirs")}
        assert not wrong, (outcome.sample, outcome.damage, wrong)
        counts[outcome.uses["load"]] += 1
    assert counts.total() == 200
    assert counts["silent"] < 100
    assert counts["NotAnOnnxFileError"] > 50


def test_a_model_read_with_the_onnx_package_is_whole_and_its_names_are_text(inside: Path) -> None:
    assert read_model(inside) == onnx.load(inside)
    with pytest.raises(errors.LoadError, match="no such file"):
        read_model(inside.with_name("absent.onnx"))
    sound = inside.read_bytes()
    inside.write_bytes(sound.replace(b"Tanh", b"Ta\xe7h"))
    with pytest.raises(errors.NotAnOnnxFileError, match="a name in it is not in UTF-8"):
        read_model(inside)
    inside.write_bytes(sound[:-5])
    with pytest.raises(errors.NotAnOnnxFileError, match="not a whole one"):
        read_model(inside)
