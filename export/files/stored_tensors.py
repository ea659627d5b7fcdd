"""The tensors stored in a model file or in a data file beside it: found and read without the onnx package.

Field numbers of `TensorProto` are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.errors import DataFileError, LoadError, NotAnOnnxFileError
from export.files import protobuf_wire
from export.files.element_types import BITS
from export.files.protobuf_wire import Buffer

__all__ = [
    "CONSTANT",
    "EXTERNAL",
    "INITIALIZER",
    "LOCATION",
    "RAW",
    "VALUES",
    "Stored",
    "check",
    "data_files",
    "data_path",
    "each",
    "find",
    "read",
    "read_by_nodes",
    "within",
]

INITIALIZER = 5
"""GraphProto's field of a tensor."""

DIMS, DATA_TYPE, NAME, RAW, EXTERNAL, LOCATION = 1, 2, 8, 9, 13, 14
_FLOATS, _DOUBLES = 4, 10
VALUES = frozenset({3, _FLOATS, 5, 6, 7, RAW, _DOUBLES, 11, EXTERNAL, LOCATION})
"""TensorProto's fields that hold its values or say where they are."""

CONSTANT = "constant."
"""What the names of the translation's own constants begin with."""

MAX_SIZE_DIGITS = 18
"""Decimal digits of a place in a data file: more than any disk has bytes."""

_SEPARATE = -1
"""Begin of values that are neither raw bytes nor in a data file."""

DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    **{bits.onnx: name for name, bits in BITS.items() if bits.per_byte == 1},
}
"""ONNX's numbers for dtypes that can be read."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor stored with a model.

    Attributes:
        name: its name in the graph.
        dtype: its dtype's name.
        shape: its sizes.
        location: the data file beside the model that holds its values, empty if the model file does.
        begin: where its values begin in that file.
        end: where they end.
        message: where its own description begins and ends in the model file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    location: str
    begin: int
    end: int
    message: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * (storage(self.dtype).itemsize if self.dtype in DTYPES.values() else 0)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


def find(path: str | os.PathLike[str], header: protobuf_wire.Header) -> dict[str, Stored]:
    """Find the tensors of a model's graph by name, in the order of the file."""
    with protobuf_wire.mapped(path) as data:
        return within(data, header)


def within(data: Buffer, header: protobuf_wire.Header) -> dict[str, Stored]:
    """Find the tensors of a model in memory."""
    return {tensor.name: tensor for tensor in each(data, header)}


def each(data: Buffer, header: protobuf_wire.Header) -> Iterator[Stored]:
    """Yield the tensors of a model in memory, in the order of the file."""
    for number, kind, begin, end in protobuf_wire.fields(data, *header.graph):
        if (number, kind) == (INITIALIZER, 2):
            yield _stored(data, begin, end)


def _stored(data: Buffer, message: int, stop: int) -> Stored:
    name, number, dims, place = "", 0, [], {}
    begin = end = 0
    for field, kind, a, b in protobuf_wire.fields(data, message, stop):
        if field == DIMS and kind == 0:
            dims.append(a)
        elif field == DIMS:
            while a < b:
                dim, a = protobuf_wire.varint(data, a)
                dims.append(dim)
        elif field == DATA_TYPE:
            number = a
        elif field == NAME:
            name = _text(data, a, b)
        elif field in (RAW, _FLOATS, _DOUBLES) and kind == 2:
            begin, end = a, b
        elif field == EXTERNAL:
            key, value = protobuf_wire.entry(data, a, b)
            place[key] = value
        elif field in VALUES and field != LOCATION:
            begin = end = _SEPARATE
    dtype = DTYPES.get(number, f"type {number}")
    shape = tuple(dims)
    tensor = Stored(name, dtype, shape, place.get("location", ""), begin, end, (message, stop))
    if not place:
        return tensor
    if not tensor.location:  # which no writer leaves out
        return dataclasses.replace(tensor, begin=_SEPARATE, end=_SEPARATE)
    begin = _count(place.get("offset"), 0)
    return dataclasses.replace(tensor, begin=begin, end=begin + _count(place.get("length"), tensor.nbytes))


def _count(text: str | None, default: int) -> int:
    if text is not None and not (text.isdecimal() and len(text) <= MAX_SIZE_DIGITS):
        raise protobuf_wire.BrokenError
    return default if text is None else int(text)


def storage(dtype: str) -> np.dtype[Any]:
    """Return numpy's dtype for a tensor's memory: bits for what numpy lacks."""
    return np.dtype(BITS[dtype].storage if dtype in BITS else dtype)


def data_path(path: str | os.PathLike[str], location: str) -> Path:
    """Return the data file that a model names.

    Raises:
        DataFileError: if it lies outside of the model's folder: a model may not reach for other files.
    """
    if os.path.isabs(location) or ".." in Path(location).parts:
        raise DataFileError(
            f"{os.fspath(path)} keeps tensors in {location!r}, outside of its own folder; "
            "a data file must lie beside its model: export it again, or save it again with onnx.save"
        )
    return Path(path).parent / location


def check(path: str | os.PathLike[str], tensors: Iterable[Stored]) -> None:
    """Check that the data files which the tensors need are there and long enough.

    Raises:
        DataFileError: if one is missing or too short.
    """
    furthest: dict[str, Stored] = {}
    count: dict[str, int] = {}
    for tensor in tensors:
        if tensor.location:
            known = furthest.setdefault(tensor.location, tensor)
            furthest[tensor.location] = max(known, tensor, key=lambda one: one.end)
            count[tensor.location] = count.get(tensor.location, 0) + 1
    for location, tensor in furthest.items():
        file = data_path(path, location)
        if not os.path.isfile(file):  # unlike Path.is_file, false for a name that no file can have
            raise DataFileError(
                f"{os.fspath(path)} keeps {count[location]} of its tensors in {location}, which is not beside it "
                f"({file} does not exist); move both files together, or export again"
            )
        size = file.stat().st_size
        if size < tensor.end:
            raise DataFileError(
                f"{file} is cut short: it has {size} bytes, but {tensor.name} ends at byte {tensor.end}; "
                f"copy it again whole, or export {Path(path).name} again"
            )


def read_by_nodes(path: str | os.PathLike[str], header: protobuf_wire.Header) -> set[str]:
    """Return the names of the values that nodes read, those inside branches included, and of the outputs."""
    with protobuf_wire.mapped(path) as data:
        return set(_read_names(data, *header.graph))


def _read_names(data: Buffer, begin: int, end: int) -> Iterator[str]:
    """Yield what nodes (field 1) read, those in graphs of their attributes (5.6, 5.11) too, and the outputs (12)."""
    for number, _, a, b in protobuf_wire.fields(data, begin, end):
        if number == 12:
            yield from (_text(data, x, y) for field, _, x, y in protobuf_wire.fields(data, a, b) if field == 1)
        if number != 1:
            continue
        for field, _, x, y in protobuf_wire.fields(data, a, b):
            if field == 1:
                yield _text(data, x, y)
            elif field == 5:
                for inner, kind, start, stop in protobuf_wire.fields(data, x, y):
                    if inner in (6, 11) and kind == 2:
                        yield from _read_names(data, start, stop)


def _text(data: Buffer, begin: int, end: int) -> str:
    return bytes(data[begin:end]).decode("utf-8", "replace")


def read(path: str | os.PathLike[str], tensor: Stored) -> np.ndarray[Any, Any]:
    """Return a tensor's values in memory of their own; bfloat16 as its 16 bits.

    Raises:
        LoadError: if they are stored in a way that cannot be read.
        DataFileError: if their data file is missing or too short.
    """
    if tensor.dtype not in DTYPES.values() or tensor.begin == _SEPARATE:
        raise LoadError(
            f"{os.fspath(path)}: {tensor} is not stored as plain bytes; load it with onnx.load and save it with "
            "numpy_helper.from_array, which stores bytes"
        )
    if tensor.end - tensor.begin != tensor.nbytes or any(size > protobuf_wire.MAX_SIZE for size in tensor.shape):
        raise NotAnOnnxFileError(
            f"{os.fspath(path)}: {tensor} has {tensor.end - tensor.begin} bytes, not the {tensor.nbytes} of its shape; "
            "the file is damaged, export it again"
        )
    check(path, [tensor])
    file = data_path(path, tensor.location) if tensor.location else path
    values = np.fromfile(file, storage(tensor.dtype), math.prod(tensor.shape), offset=tensor.begin)
    if values.nbytes != tensor.nbytes:
        raise DataFileError(f"{file} was cut short while {tensor} was read; copy it again whole")
    return values.reshape(tensor.shape)


def data_files(path: str | os.PathLike[str], tensors: Mapping[str, Stored]) -> list[Path]:
    """Return the data files of a model."""
    return [data_path(path, location) for location in dict.fromkeys(t.location for t in tensors.values()) if location]
