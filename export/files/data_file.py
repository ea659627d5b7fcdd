"""The data file beside a model: tensors that are too large for the model file itself.

A model `net.onnx` keeps them in `net.onnx.<digest>.data`, named after its own content. A new export therefore never
touches the data that an older model reads: the new data file is written first, the model that names it takes the
older one's place in one step, and the older data file goes last. Whoever reads at any moment finds a model and the
data that belongs to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from export.errors import LoadError, WriteError
from export.files import protobuf_wire, stored_tensors
from pure_export_shared import move, settle, temporary

__all__ = ["DataFile", "beside"]

PAGE_BYTES, SECTION_BYTES, MIN_SECTION_ALIGNED_BYTES = 4096, 65536, 2**20
"""Tensors begin at multiples of a page, large ones at multiples of what Windows maps, so that none has to be copied."""


class DataFile:
    """Collects tensors in a file without its final name; empty until the first one comes.

    Attributes:
        size: bytes written.
        path: the file after `finish`, None if nothing was written.
    """

    def __init__(self, model: Path) -> None:
        self.size = 0
        self.path: Path | None = None
        self._model = model
        self._digest = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._name: str | None = None

    def put(self, chunks: Iterable[bytes | memoryview], nbytes: int) -> tuple[int, int]:
        """Add a tensor; return where it lies and how long it is."""
        if self._file is None:
            self._name = temporary(self._model, WriteError)
            self._file = open(self._name, "wb")  # noqa: SIM115
        self._write(bytes(-self.size % (SECTION_BYTES if nbytes >= MIN_SECTION_ALIGNED_BYTES else PAGE_BYTES)))
        offset = self.size
        for chunk in chunks:
            self._write(chunk)
        if self.size - offset != nbytes:
            raise AssertionError(f"a tensor of {nbytes} bytes gave {self.size - offset}")
        return offset, nbytes

    def _write(self, chunk: bytes | memoryview) -> None:
        if self._file is None:
            raise AssertionError("the data file is not open")
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    def finish(self) -> str:
        """Give the file its name, beside the model, and return that."""
        if self._file is None or self._name is None:
            return ""
        with self._file as file:
            settle(file)
        self.path = self._model.with_name(f"{self._model.name}.{self._digest.hexdigest()[:16]}.data")
        move(self._name, self.path)
        return self.path.name

    def discard(self) -> None:
        """Remove what was written, unless the model that stands there now reads it."""
        if self._file is not None and self._name is not None:
            self._file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name)
        if self.path is not None and self.path.name not in _named(self._model):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)


@contextlib.contextmanager
def beside(path: str | os.PathLike[str]) -> Iterator[DataFile]:
    """Give a data file for a model that the body writes to `path`; if the body fails, no data file is left.

    When it ends well, the data file of the model that stood there before is removed.
    """
    model = Path(path)
    older = _named(model)
    data = DataFile(model)
    try:
        yield data
    except BaseException:
        data.discard()
        raise
    for name in older - _named(model):
        with contextlib.suppress(OSError):  # one that another process holds open on Windows stays
            os.unlink(model.with_name(name))


def _named(model: Path) -> set[str]:
    """Return the names of the data files that the model at a path reads, as far as they are called like its own."""
    own = re.compile(re.escape(model.name) + r"\.[0-9a-f]{16}\.data")
    try:
        tensors = stored_tensors.find(model, protobuf_wire.read_header(model))
    except (LoadError, OSError):
        return set()
    return {tensor.location for tensor in tensors.values() if own.fullmatch(tensor.location)}
