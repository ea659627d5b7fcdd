"""Just enough of the protobuf wire format to look into an ONNX file without the onnx package.

``load`` needs a file's metadata even where ONNX Runtime refuses it, and has to tell an ONNX file from any other.
Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
from collections.abc import Iterator

from export.errors import LoadError, NotAnOnnxFileError

_IR_VERSION, _PRODUCER, _GRAPH, _OPSETS, _METADATA = 1, 2, 7, 8, 14
_KNOWN = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""ModelProto's fields and their wire types."""

Buffer = bytes | mmap.mmap


class _BrokenError(Exception):
    """The bytes are not a protobuf message."""


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of the graph: its name, operator and metadata."""

    name: str
    kind: str
    metadata: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Header:
    """What a model file says about itself.

    Attributes:
        producer: The program that wrote it.
        metadata: Its metadata entries.
        graph: Where its graph begins and ends in the file.
    """

    producer: str
    metadata: dict[str, str]
    graph: tuple[int, int]


def _varint(data: Buffer, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _BrokenError
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _fields(data: Buffer, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, start, end) of each field; a number field's value is in ``start``."""
    at = begin
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, kind, value, at
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise _BrokenError
        if at + size > end or not number:
            raise _BrokenError
        yield number, kind, at, at + size
        at += size


def _entries(data: Buffer, begin: int, end: int) -> tuple[str, str]:
    """Read a StringStringEntryProto."""
    text = {
        number: bytes(data[a:b]).decode("utf-8", "replace")
        for number, kind, a, b in _fields(data, begin, end)
        if kind == 2
    }
    return text.get(1, ""), text.get(2, "")


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read a model file's metadata.

    Raises:
        LoadError: If there is no such file.
        NotAnOnnxFileError: If it is not an ONNX model.
    """
    if not os.path.exists(path):
        raise LoadError(f"{os.fspath(path)}: no such file; export.to_onnx writes one")
    if os.path.isdir(path):
        raise NotAnOnnxFileError(f"{os.fspath(path)} is a folder, not an ONNX file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise NotAnOnnxFileError(f"{os.fspath(path)} is empty, not an ONNX file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _header(data)
            except _BrokenError as error:
                start = bytes(data[:8])
                raise NotAnOnnxFileError(
                    f"{os.fspath(path)} ({size} bytes, beginning with {start!r}) is not an ONNX model, or not a whole "
                    "one; "
                    "give a file that export.to_onnx or another exporter wrote"
                ) from error


def _header(data: Buffer) -> Header:
    producer, graph, metadata, version = "", None, {}, None
    for number, kind, begin, end in _fields(data, 0, len(data)):
        if _KNOWN.get(number) != kind:
            raise _BrokenError
        if number == _IR_VERSION:
            version = begin
        elif number == _PRODUCER:
            producer = bytes(data[begin:end]).decode("utf-8", "replace")
        elif number == _GRAPH:
            graph = begin, end
        elif number == _METADATA:
            key, value = _entries(data, begin, end)
            metadata[key] = value
    if version is None or graph is None:
        raise _BrokenError
    return Header(producer, metadata, graph)


def find_node(path: str | os.PathLike[str], name: str) -> Node | None:
    """Find a node of a model file by its name, in branches as well."""
    header = read_header(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _find(data, *header.graph, name)


def _find(data: Buffer, begin: int, end: int, name: str) -> Node | None:
    for number, kind, a, b in _fields(data, begin, end):
        if number != 1 or kind != 2:
            continue
        label, operator, metadata, branches = "", "", {}, []
        for field, wire, start, stop in _fields(data, a, b):
            if field == 3 and wire == 2:
                label = bytes(data[start:stop]).decode("utf-8", "replace")
            elif field == 4 and wire == 2:
                operator = bytes(data[start:stop]).decode("utf-8", "replace")
            elif field == 9 and wire == 2:
                key, value = _entries(data, start, stop)
                metadata[key] = value
            elif field == 5 and wire == 2:
                branches += [(x, y) for f, w, x, y in _fields(data, start, stop) if f == 6 and w == 2]
        if label == name:
            return Node(label, operator, metadata)
        for branch in branches:
            found = _find(data, *branch, name)
            if found is not None:
                return found
    return None
