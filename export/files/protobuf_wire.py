"""Just enough of the protobuf wire format to look into an ONNX file without the onnx package.

`load` needs a file's metadata even where ONNX Runtime refuses it, and has to tell an ONNX file from any other.
`export.files.stored_tensors` reads the tensors with it, and `export.splicing` replaces them.
Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
import os
from collections.abc import Iterator

from export.errors import LoadError, NotAnOnnxFileError

__all__ = [
    "CALL_KEY",
    "DIGEST_KEY",
    "GRAPH",
    "METADATA",
    "QUANTIZED_KEY",
    "BrokenError",
    "Buffer",
    "Header",
    "Node",
    "entry",
    "fields",
    "find",
    "find_node",
    "holds_digest",
    "in_memory",
    "mapped",
    "nodes",
    "parse_header",
    "raise_unless_file",
    "read_header",
    "varint",
]

CALL_KEY = "pure_export.call"
DIGEST_KEY = "pure_export.digest"
QUANTIZED_KEY = "pure_export.quantized"

MAX_SIZE = 2**48
"""What no size of an axis exceeds: more elements than memory holds."""

MAX_FILE_BYTES = 2**31 - 1
"""Bytes that one ONNX file may have: the limit of its protobuf encoding."""

_IR_VERSION, _PRODUCER, GRAPH, METADATA = 1, 2, 7, 14
_KNOWN = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""ModelProto's fields and their wire types."""

Buffer = bytes | mmap.mmap


class BrokenError(Exception):
    """The bytes are not a protobuf message."""


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of the graph: its name, operator, metadata, and the domain of the operator, empty for ONNX's own."""

    name: str
    kind: str
    metadata: dict[str, str]
    domain: str = ""


@dataclasses.dataclass(frozen=True)
class Header:
    """What a model file says about itself.

    Attributes:
        producer: the program that wrote it.
        metadata: its metadata entries.
        graph: where its graph begins and ends in the file.
    """

    producer: str
    metadata: dict[str, str]
    graph: tuple[int, int]


def varint(data: Buffer, at: int) -> tuple[int, int]:
    """Read a number; return it and where it ends."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise BrokenError
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def fields(data: Buffer, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, start, end) of each field; a number field's value is in `start`."""
    at = begin
    while at < end:
        key, at = varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = varint(data, at)
            yield number, kind, value, at
            continue
        if kind == 2:
            size, at = varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise BrokenError
        if at + size > end or not number:
            raise BrokenError
        yield number, kind, at, at + size
        at += size


def entry(data: Buffer, begin: int, end: int) -> tuple[str, str]:
    """Read a StringStringEntryProto."""
    text = {
        number: bytes(data[a:b]).decode("utf-8", "replace")
        for number, kind, a, b in fields(data, begin, end)
        if kind == 2
    }
    return text.get(1, ""), text.get(2, "")


def holds_digest(data: Buffer, number: int, kind: int, begin: int, end: int) -> bool:
    """Tell the file's digest from the other fields of a model."""
    return (number, kind) == (METADATA, 2) and entry(data, begin, end)[0] == DIGEST_KEY


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read a model file's metadata.

    Raises:
        LoadError: if there is no such file.
        NotAnOnnxFileError: if it is not an ONNX model.
    """
    raise_unless_file(path)
    with mapped(path) as data:
        return parse_header(data)


def raise_unless_file(path: str | os.PathLike[str]) -> None:
    """Raise if a path leads to no file.

    Raises:
        LoadError: if nothing is there, or it cannot be read.
        NotAnOnnxFileError: if it is a folder.
    """
    if not os.path.exists(path):
        raise LoadError(f"{os.fspath(path)}: no such file; export.to_onnx writes one")
    if os.path.isdir(path):
        raise NotAnOnnxFileError(f"{os.fspath(path)} is a folder, not an ONNX file")


@contextlib.contextmanager
def mapped(path: str | os.PathLike[str]) -> Iterator[mmap.mmap]:
    """Map a model file into memory; bytes that turn out to be no model become a typed error.

    Raises:
        NotAnOnnxFileError: if the file is empty, or the body finds that it is not a model.
    """
    if not os.path.getsize(path):
        raise NotAnOnnxFileError(f"{os.fspath(path)} is empty, not an ONNX file")
    with in_memory(path) as data:
        try:
            yield data
        except BrokenError as error:
            start = bytes(data[:8])
            raise NotAnOnnxFileError(
                f"{os.fspath(path)} ({len(data)} bytes, beginning with {start!r}) is not an ONNX model, or not a whole "
                "one; give a file that export.to_onnx or another exporter wrote"
            ) from error


@contextlib.contextmanager
def in_memory(path: str | os.PathLike[str]) -> Iterator[mmap.mmap]:
    """Map a file that is not empty into memory.

    Raises:
        LoadError: if it cannot be opened.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise LoadError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from error
    with file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def parse_header(data: Buffer) -> Header:
    """Read the metadata of a model in memory."""
    producer, graph, metadata, version = "", None, {}, None
    for number, kind, begin, end in fields(data, 0, len(data)):
        if _KNOWN.get(number) != kind:
            raise BrokenError
        if number == _IR_VERSION:
            version = begin
        elif number == _PRODUCER:
            producer = bytes(data[begin:end]).decode("utf-8", "replace")
        elif number == GRAPH:
            if graph is not None:
                raise BrokenError
            graph = begin, end
        elif number == METADATA:
            key, value = entry(data, begin, end)
            metadata[key] = value
    if version is None or graph is None:
        raise BrokenError
    return Header(producer, metadata, graph)


def find_node(path: str | os.PathLike[str], name: str) -> Node | None:
    """Find a node of a model file by its name, in branches as well."""
    header = read_header(path)
    with mapped(path) as data:
        return find(data, *header.graph, name)


def find(data: Buffer, begin: int, end: int, name: str, place: int = 1) -> Node | None:
    """Find a node of a graph, or of a function with `place=7`, by its name, in branches as well."""
    for node, branches in nodes(data, begin, end, place):
        if node.name == name:
            return node
        for branch in branches:
            found = find(data, *branch, name)
            if found is not None:
                return found
    return None


def nodes(data: Buffer, begin: int, end: int, place: int = 1) -> Iterator[tuple[Node, list[tuple[int, int]]]]:
    """Yield the nodes of a graph, or of a function with `place=7`, and where the graphs inside them lie."""
    for number, kind, a, b in fields(data, begin, end):
        if number != place or kind != 2:
            continue
        texts, metadata, branches = {3: "", 4: "", 7: ""}, {}, []
        for field, wire, start, stop in fields(data, a, b):
            if field in texts and wire == 2:
                texts[field] = bytes(data[start:stop]).decode("utf-8", "replace")
            elif field == 9 and wire == 2:
                key, value = entry(data, start, stop)
                metadata[key] = value
            elif field == 5 and wire == 2:
                branches += [(x, y) for f, w, x, y in fields(data, start, stop) if f == 6 and w == 2]
        yield Node(texts[3], texts[4], metadata, texts[7]), branches
