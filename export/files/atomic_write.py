"""Atomic writes: at any moment a path holds the old file, no file, or the whole new one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from export.errors import WriteError

TEMPORARY = ".pure-export.tmp"
"""How the name of an unfinished file ends. One left behind by a killed process may be deleted."""

LARGEST = 2**31 - 1
"""Bytes that one ONNX file may have: the limit of its protobuf encoding."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Give a file to write to, which takes the path's place when the body has ended well.

    The temporary file lies in the same folder, is opened before the body runs (so that a path that cannot be written
    fails first) and is removed if the body fails.

    Raises:
        WriteError: If the folder does not exist or cannot be written to, or the path is a folder.
    """
    target = Path(path)
    name = temporary(target)
    try:
        with open(name, "wb") as file:
            yield file
            settle(file)
        move(name, target)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):  # an error after the move finds nothing to remove
            os.unlink(name)
        if isinstance(error, OSError) and not isinstance(error, WriteError):
            raise WriteError(f"cannot write {target}: {error.strerror or error}") from error
        raise


def temporary(target: Path) -> str:
    """Make an empty file in the target's folder, under a name that shows that it is unfinished.

    Raises:
        WriteError: If the folder does not exist or cannot be written to, or the target is a folder.
    """
    if target.is_dir():
        raise WriteError(f"cannot write {target}: it is a folder; give a file name, such as {target / 'model.onnx'}")
    folder = target.absolute().parent
    if not folder.is_dir():
        raise WriteError(f"cannot write {target}: the folder {folder} does not exist; create it first")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=TEMPORARY, dir=folder)
    except OSError as error:
        raise WriteError(
            f"cannot write {target}: {error.strerror or error}; give a path in a folder you can write to"
        ) from error
    os.close(handle)
    return name


def settle(file: BinaryIO) -> None:
    """Make what was written durable."""
    file.flush()
    os.fsync(file.fileno())


def move(name: str, target: Path) -> None:
    """Let a finished file take its place in one step, with the usual permissions."""
    os.chmod(name, 0o666 & ~_umask())
    os.replace(name, target)
    _sync_folder(target.absolute().parent)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself durable where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
