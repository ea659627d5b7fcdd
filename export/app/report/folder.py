"""A whole folder written at once: at any moment the target is the old report, nothing, or the whole new one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from export.errors import WriteError

__all__ = ["DATA", "MARK", "replacing_folder"]

MARK = "pure_export_report"
"""The key of report.json that tells a report from any other folder."""

DATA = "report.json"


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty folder beside the target, which takes its place when the body has ended well.

    Only an earlier report is replaced: the target must not exist, be empty, or hold a report and nothing else.

    Raises:
        WriteError: if the target is a file, holds anything else, or cannot be written.
    """
    target = Path(path).absolute()
    check(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        built = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise WriteError(
            f"cannot write {target}: {error.strerror or error}; give --out in a folder you can write to"
        ) from error
    try:
        yield built
        os.chmod(built, 0o777 & ~_umask())
        check(target)  # once more: it may have changed meanwhile
        _swap(built, target)
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise WriteError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(built, ignore_errors=True)


def check(target: Path) -> None:
    """Raise unless a report may be written there.

    Raises:
        WriteError: the target is something that a report must not replace.
    """
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise WriteError(f"cannot write {target}: it is not a folder; give another --out")
    try:
        entries = list(target.iterdir())
    except OSError as error:
        raise WriteError(f"cannot read {target}: {error.strerror or error}; give another --out") from error
    found = {entry.relative_to(target).as_posix() for entry in entries}
    if not found:
        return
    own = _own_files(target)
    if own is None:
        raise WriteError(
            f"cannot write {target}: it holds files but no earlier report; give --out a new or empty folder"
        )
    foreign = sorted(found - own)
    if foreign:
        raise WriteError(
            f"cannot replace the report in {target}: it also holds {', '.join(foreign[:5])}, which no report wrote; "
            "move that away, or give another --out"
        )


def _own_files(target: Path) -> set[str] | None:
    """Return the names that an earlier report wrote, or None if this is no report."""
    try:
        data = json.loads((target / DATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or MARK not in data:
        return None
    return {DATA, *(str(name) for name in data.get("files", ()))}


def _swap(built: Path, target: Path) -> None:
    if not target.exists():
        os.rename(built, target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    os.rename(target, aside / "report")
    try:
        os.rename(built, target)
    except OSError:
        os.rename(aside / "report", target)
        os.rmdir(aside)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
