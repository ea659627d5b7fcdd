"""A model file written again with some of its tensors replaced, byte for byte the same in everything else.

A file is a list of pieces, each of a known size, so that lengths are known before anything is copied and no more than
one tensor is held in memory.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from export.files import protobuf_wire
from export.files.stored_tensors import EXTERNAL, INITIALIZER, LOCATION, RAW, VALUES, Stored
from export.files.tensor_values import as_array

__all__ = ["Piece", "inside", "memory", "message", "outside", "plain", "spliced", "total", "values"]

CHUNK = 2**24
"""Bytes that are copied from file to file at once."""

Chunks = Iterator[bytes | memoryview]


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some bytes of a file: how many, and a function that gives them in chunks."""

    size: int
    chunks: Callable[[], Chunks]


def plain(content: bytes) -> Piece:
    """Return a piece that is there already."""
    return Piece(len(content), lambda: iter((content,)))


def copied(data: protobuf_wire.Buffer, begin: int, end: int) -> Piece:
    """Return a piece of a mapped file."""
    return Piece(end - begin, lambda: (data[at : min(at + CHUNK, end)] for at in range(begin, end, CHUNK)))


def values(tensor: Any, dtype: str, nbytes: int) -> Piece:
    """Return a tensor's memory, which is fetched when it is written."""
    return Piece(nbytes, functools.partial(_memory, tensor, dtype))


def _memory(tensor: Any, dtype: str) -> Chunks:
    yield memory(as_array(tensor, dtype))


def memory(array: np.ndarray[Any, Any]) -> memoryview:
    """Return a contiguous array's bytes without a copy."""
    return array.reshape(-1).view(np.uint8).data


def total(pieces: Sequence[Piece]) -> int:
    """Add up sizes."""
    return sum(piece.size for piece in pieces)


def number(value: int) -> bytes:
    """Write a number as protobuf does."""
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes((*content, value))


def lead(field: int, size: int) -> bytes:
    """Write what stands in front of a field of so many bytes."""
    return number(field << 3 | 2) + number(size)


def message(data: protobuf_wire.Buffer, tensor: Stored, held: Sequence[Piece]) -> list[Piece]:
    """Return a tensor's description with its values replaced by `held`: `inside(…)` or `outside(…)`."""
    kept = []
    at = tensor.message[0]
    for field, _, _, end in protobuf_wire.fields(data, *tensor.message):
        if field not in VALUES:
            kept.append(data[at:end])
        at = end
    return [plain(b"".join(kept)), *held]


def inside(content: Piece) -> list[Piece]:
    """Hold values in the model file."""
    return [plain(lead(RAW, content.size)), content]


def outside(location: str, offset: int, length: int) -> list[Piece]:
    """Hold values in a data file."""
    text = b""
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        pair = lead(1, len(key)) + key.encode() + lead(2, len(value.encode())) + value.encode()
        text += lead(EXTERNAL, len(pair)) + pair
    return [plain(text + number(LOCATION << 3) + number(1))]


def spliced(
    data: protobuf_wire.Buffer, found: Mapping[str, Stored], replaced: Mapping[str, Sequence[Piece]]
) -> list[Piece]:
    """Return a model file whose named tensors have other descriptions, without its digest, which no longer fits.

    Args:
        data: the model file.
        found: its tensors.
        replaced: {name: what `message` returned}.
    """
    pieces = []
    copied_to = at = 0
    for field, kind, begin, end in protobuf_wire.fields(data, 0, len(data)):
        if field == protobuf_wire.GRAPH:
            inner = _graph(data, begin, end, {found[name].message[0]: new for name, new in replaced.items()})
            pieces += [copied(data, copied_to, at), plain(lead(protobuf_wire.GRAPH, total(inner))), *inner]
            copied_to = end
        elif protobuf_wire.holds_digest(data, field, kind, begin, end):
            pieces.append(copied(data, copied_to, at))
            copied_to = end
        at = end
    return [*pieces, copied(data, copied_to, len(data))]


def _graph(data: protobuf_wire.Buffer, begin: int, end: int, replaced: Mapping[int, Sequence[Piece]]) -> list[Piece]:
    pieces = []
    copied_to = at = begin
    for field, _, start, stop in protobuf_wire.fields(data, begin, end):
        if field == INITIALIZER and start in replaced:
            new = replaced[start]
            pieces += [copied(data, copied_to, at), plain(lead(INITIALIZER, total(new))), *new]
            copied_to = stop
        at = stop
    return [*pieces, copied(data, copied_to, end)]
