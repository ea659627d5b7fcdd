"""The shared libraries that a file needs, read from its ELF header, and where each lies on this machine."""

from __future__ import annotations

import glob
import mmap
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["locate", "needed"]

_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRINGS = 1, 5


def needed(path: Path) -> list[str]:
    """Return the names of the libraries that a 64-bit little-endian ELF file asks for; empty for any other file.

    Source: System V ABI, chapter 5, "Dynamic Section": DT_NEEDED entries are offsets into the string table DT_STRTAB.
    """
    with path.open("rb") as file:
        if file.read(6) != b"\x7fELF\x02\x01":
            return []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _needed(data)


def _needed(data: mmap.mmap) -> list[str]:
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    # Of each program header: type, offset in the file, address in memory, size in the file.
    headers = [struct.unpack_from("<I4xQQ8xQ", data, table + i * size) for i in range(count)]
    entries: list[tuple[int, int]] = []
    for kind, offset, _, length in headers:
        if kind == _DYNAMIC:
            entries = [struct.unpack_from("<QQ", data, offset + i) for i in range(0, length, 16)]
    address = next((value for tag, value in entries if tag == _STRINGS), None)
    if address is None:
        return []
    starts = [offset + address - at for kind, offset, at, n in headers if kind == _LOAD and at <= address < at + n]
    found = []
    for tag, value in entries:
        if tag == _NEEDED:
            start = starts[0] + value
            found.append(data[start : data.find(b"\0", start)].decode("utf-8", errors="replace"))
    return found


def folders() -> Iterator[Path]:
    """Yield the folders where CUDA libraries usually lie, those that the loader searches first."""
    for variable in ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH"):
        for part in filter(None, os.environ.get(variable, "").split(os.pathsep)):
            yield from (Path(part), Path(part) / "lib64")
    for entry in dict.fromkeys(sys.path):
        for pattern in ("nvidia/*/lib", "torch/lib"):
            yield from (Path(found) for found in sorted(glob.glob(os.path.join(entry, pattern))))
    for pattern in (
        "/usr/local/cuda*/lib64",
        "/usr/local/nvidia/lib64",
        "/usr/lib/*-linux-gnu",
        "/usr/lib64",
        "/lib64",
    ):
        yield from (Path(found) for found in sorted(glob.glob(pattern)))


def locate(names: Iterator[str] | list[str]) -> dict[str, str | None]:
    """Return where each library lies, or None: {name: path}."""
    places = list(folders())
    return {name: next((str(p / name) for p in places if (p / name).exists()), None) for name in names}
