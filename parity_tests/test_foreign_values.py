"""Files from elsewhere take and give text, sequences, optionals and elements that numpy lacks; mistakes are typed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import export
from export.errors import ArgumentError, UnsupportedOpError

A = np.arange(6, dtype=np.float32).reshape(2, 3)


def tensor(kind: int, shape: Sequence[Any] | None = ("n",)) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(kind, shape)


def identity(folder: Path, *kinds: onnx.TypeProto) -> export.Loaded:
    """Return a file of y0 = x0, y1 = x1 and so on, loaded."""
    inputs, outputs = (
        [helper.make_value_info(f"{letter}{i}", kind) for i, kind in enumerate(kinds)] for letter in "xy"
    )
    nodes = [helper.make_node("Identity", [f"x{i}"], [f"y{i}"]) for i in range(len(kinds))]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, folder / "f.onnx")
    return export.load(folder / "f.onnx", device="cpu")


@pytest.mark.parametrize(
    "given",
    [
        np.array(["a", "bü", ""]),
        np.array(["a", "bü", ""], dtype=object),
        *([np.array(["a", "bü", ""], np.dtypes.StringDType())] if hasattr(np.dtypes, "StringDType") else []),
    ],
)
def test_text(given: Any, tmp_path: Path) -> None:
    f = identity(tmp_path, tensor(TensorProto.STRING))
    assert str(f.inputs[0]) == "x0: string[n]"
    (found,) = f(given).values()
    assert found.dtype == object
    assert found.tolist() == ["a", "bü", ""]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (np.array([b"a"]), "x0: expected string, got bytes8"),
        (np.array(["a", 1], dtype=object), "x0: expected an array of text, got one that holds a int"),
        (np.array([1.0]), "x0: expected string, got float64"),
        (["a"], "x0: expected a numpy array or a torch tensor, got a list"),
    ],
)
def test_what_is_no_text(given: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=reason):
        identity(tmp_path, tensor(TensorProto.STRING))(given)


def test_text_beside_torch_tensors(tmp_path: Path) -> None:
    f = identity(tmp_path, tensor(TensorProto.STRING), tensor(TensorProto.FLOAT))
    text, number = f(np.array(["a"]), torch.ones(2)).values()
    assert text.tolist() == ["a"]
    assert torch.equal(number, torch.ones(2))


def test_a_sequence_is_a_list(tmp_path: Path) -> None:
    f = identity(tmp_path, helper.make_sequence_type_proto(tensor(TensorProto.FLOAT, None)))
    assert str(f.inputs[0]) == "x0: sequence of float32"
    (found,) = f([A, A]).values()
    assert isinstance(found, list)
    assert [item.tolist() for item in found] == [A.tolist()] * 2
    (empty,) = f([]).values()
    assert empty == []
    (theirs,) = f([torch.ones(2), torch.zeros(3)]).values()
    assert [type(item) for item in theirs] == [torch.Tensor] * 2
    with pytest.raises(ArgumentError, match=r"x0\[1\]: expected float32, got float64"):
        f([A, A.astype(np.float64)])
    with pytest.raises(ArgumentError, match="x0: expected a list of float32 tensors, got a ndarray"):
        f(A)


def test_an_optional_is_a_tensor_or_none(tmp_path: Path) -> None:
    whole = helper.make_optional_type_proto(tensor(TensorProto.FLOAT, None))
    rows = helper.make_optional_type_proto(helper.make_sequence_type_proto(tensor(TensorProto.FLOAT, None)))
    f = identity(tmp_path, whole, rows)
    assert [str(leaf) for leaf in f.inputs] == ["x0: optional float32", "x1: optional sequence of float32"]
    assert [*f(None, None).values()] == [None, None]
    one, many = f(A, [A]).values()
    assert one.tolist() == A.tolist()
    assert [item.tolist() for item in many] == [A.tolist()]
    with pytest.raises(ArgumentError, match="x0: expected float32, got int64"):
        f(A.astype(np.int64), None)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "bfloat16"])
def test_eight_bit_elements(name: str, tmp_path: Path) -> None:
    kind = TensorProto.BFLOAT16 if name == "bfloat16" else getattr(TensorProto, name.replace("_", "").upper())
    f = identity(tmp_path, tensor(kind))
    given = np.array([1, -2, 0.5], getattr(ml_dtypes, name))
    (found,) = f(given).values()
    assert found.dtype == given.dtype
    assert found.tobytes() == given.tobytes()
    (theirs,) = f(torch.tensor([1, -2, 0.5]).to(getattr(torch, name))).values()
    assert theirs.dtype == getattr(torch, name)
    assert theirs.float().tolist() == [1, -2, 0.5]
    (empty,) = f(given[:0]).values()
    assert empty.shape == (0,)


@pytest.mark.parametrize("name", ["int4", "uint4"])
def test_four_bit_elements_are_packed(name: str, tmp_path: Path) -> None:
    kind = getattr(TensorProto, name.upper())
    values = [helper.make_value_info("x", tensor(kind)), helper.make_value_info("s", tensor(TensorProto.FLOAT, ()))]
    outputs = [helper.make_value_info("wide", tensor(TensorProto.FLOAT)), helper.make_value_info("back", tensor(kind))]
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["back"], to=kind),
    ]
    graph = helper.make_graph(nodes, "g", values, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "f.onnx")
    numbers = [1, 7, 3] if name == "uint4" else [-8, 7, -1]
    given = np.array(numbers, getattr(ml_dtypes, name))
    wide, back = export.load(tmp_path / "f.onnx", device="cpu")(given, np.float32(1)).values()
    assert wide.tolist() == numbers
    assert back.dtype == given.dtype
    assert back.tolist() == numbers


@pytest.mark.parametrize(
    "other", [helper.make_sequence_type_proto(tensor(TensorProto.FLOAT, None)), tensor(TensorProto.STRING)]
)
def test_bits_beside_what_cannot_be_bound_are_refused_by_name(other: onnx.TypeProto, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOpError, match=r"x1: float8_e4m3fn\[n\] beside text, sequences or optionals"):
        identity(tmp_path, other, tensor(TensorProto.FLOAT8E4M3FN))
