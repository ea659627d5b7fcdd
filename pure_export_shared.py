"""What `pure` and `export` both stand on: the base of their errors, whole-file writes, and numbers in JSON.

It is a module of its own because neither package may import the other's: `pure` never imports `export`, and
`export.runtime` and `export.errors` run where neither `torch` nor `pure` is installed. It needs the standard library
only. Import the errors from `pure.errors` or `export.errors`, which name the same classes.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import pickle
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, BinaryIO

__all__ = [
    "ArgumentError",
    "ExportError",
    "HtmlText",
    "PureError",
    "PureExportError",
    "documented",
    "html_text",
    "json_ready",
    "listed",
    "nearest",
    "raise_unless_pickles",
    "replacing",
]

TEMPORARY = ".pure-export.tmp"
"""How the name of an unfinished file ends. One left behind by a killed process may be deleted."""


class PureExportError(Exception):
    """Base of every error that `pure` or `export` raises on purpose.

    Fails: whatever one of the two refuses. Fix: the message says what was given, what was expected and the way out.

    Pickling and copying keep the type, the message and every attribute, also where the constructor takes keywords only.
    A traceback ends in a note that names the section of the documentation about the class.

    Attributes:
        message: the text it was raised with.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.add_note(documented(type(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args, dict(self.__dict__))


def documented(kind: type[PureExportError]) -> str:
    """Return where the documentation explains an error: the section of the nearest class that is of this project.

    >>> documented(type("Own", (ArgumentError,), {"__module__": "theirs"}))
    'docs: pure-export docs errors#argumenterror'
    """
    ours = ("pure", "export", __name__)
    known = next(base for base in kind.__mro__ if base.__module__.partition(".")[0] in ours)
    return f"docs: pure-export docs errors#{known.__name__.lower()}"


def _rebuilt(kind: type[PureExportError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> PureExportError:
    """Make an error again without calling its constructor, whose parameters may differ from `args`."""
    make = OSError.__new__ if issubclass(kind, OSError) else Exception.__new__  # the one with the memory layout of kind
    error: PureExportError = make(kind)
    error.args = arguments
    error.__dict__.update(attributes)
    return error


class PureError(PureExportError):
    """Base of every error that `pure` raises on purpose.

    Fails: `pure.load("absent.safetensors")`. Fix: `except pure.errors.PureError` handles all of them alike.

    Attributes:
        message: the text it was raised with.
        path: names of the child blocks that lead from the outermost block to the one that raised, outermost first.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.path: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.message} [in {'.'.join(self.path)}]" if self.path else self.message


class ExportError(PureExportError, RuntimeError):
    """Base of every error that `export` raises on purpose.

    Fails: `export.load("absent.onnx")`. Fix: `except export.errors.ExportError` treats every failure of an export, a
    load or a verdict alike.
    """


class ArgumentError(PureError, ExportError, TypeError, ValueError):
    """An argument of the wrong kind, or arguments that do not fit together; all problems are in one message.

    The same class in both packages: `pure.errors.ArgumentError is export.errors.ArgumentError`.

    Fails: `Linear(3, 4).init(0)`. Fix: `Linear(3, 4).init(torch.Generator().manual_seed(0))`.
    Fails: `export.load("model.onnx")(x)`, exported from `fn(params, x)`. Fix: call it with `(params, x)`.
    """


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the closest of `candidates`, or an empty string.

    >>> nearest("fc1.wieght", ["fc1.weight", "fc2.bias"])
    " (did you mean 'fc1.weight'?)"
    """
    match = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


def listed(problems: Sequence[str]) -> str:
    """Return problems as an indented list, one a line."""
    return "".join(f"\n  - {problem}" for problem in problems)


def json_ready(value: Any, stand_in: Callable[[float], Any] = str) -> Any:
    """Return plain data with NaN and infinities as text, tuples as lists and keys as text, so that any parser reads it.

    Args:
        value: numbers, text, None, and dicts, lists and tuples of them.
        stand_in: what takes the place of a number that is not finite.

    Example:
        >>> json_ready({1: (0.5, float("inf"))})
        {'1': [0.5, 'inf']}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return stand_in(value)
    if isinstance(value, dict):
        return {str(key): json_ready(item, stand_in) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item, stand_in) for item in value]
    return value


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], failure: type[PureExportError]) -> Iterator[BinaryIO]:
    """Give a file to write to, which takes the path's place when the body has ended well.

    At any moment the path holds the old file, no file, or the whole new one. The temporary file lies in the same
    folder, is opened before the body runs (so that a path that cannot be written fails first) and is removed if the
    body fails.

    Raises:
        failure: the folder does not exist or cannot be written to, the path is a folder, or writing failed.
    """
    target = Path(path)
    name = temporary(target, failure)
    try:
        with open(name, "wb") as file:
            yield file
            settle(file)
        move(name, target)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):  # an error after the move finds nothing to remove
            os.unlink(name)
        if isinstance(error, OSError) and not isinstance(error, failure):
            raise failure(f"cannot write {target}: {error.strerror or error}") from error
        raise


def temporary(target: Path, failure: type[PureExportError]) -> str:
    """Make an empty file in the target's folder, under a name that shows that it is unfinished.

    Raises:
        failure: the folder does not exist or cannot be written to, or the target is a folder.
    """
    refusal = f"cannot write {target}"
    if target.is_dir():
        raise failure(f"{refusal}: it is a folder; give the name of a file in it")
    folder = target.absolute().parent
    if not folder.is_dir():
        raise failure(f"{refusal}: the folder {folder} does not exist; give a folder that exists and is writable")
    name = folder / f".{target.name}.{uuid.uuid4().hex}{TEMPORARY}"
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # the process's umask applies
    except OSError as error:
        raise failure(f"{refusal}: {error.strerror or error}; give a folder that exists and is writable") from error
    return str(name)


def settle(file: BinaryIO) -> None:
    """Make what was written durable."""
    file.flush()
    os.fsync(file.fileno())


def move(name: str, target: Path) -> None:
    """Let a finished file take its place in one step."""
    os.replace(name, target)
    _sync_folder(target.absolute().parent)


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself durable where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


BY_VALUE = frozenset({"cloudpickle", "copy", "dill", "joblib"})
"""Modules that take a function itself along, where pickle takes its name."""


def raise_unless_pickles(what: str, **held: Any) -> None:
    """Raise if something that is about to be pickled holds a function that cannot be found by its name.

    Copies, and picklers that take functions along by value such as cloudpickle's, are let through.

    Args:
        what: the object, for the message.
        held: the functions and other values that it holds, by name.

    Raises:
        ArgumentError: it names the value.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] in BY_VALUE:
            return
        frame = frame.f_back  # type: ignore[assignment]
    for name, value in held.items():
        try:
            pickle.dumps(value)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            if isinstance(error, PureExportError):
                raise
            shown = getattr(value, "__qualname__", type(value).__name__)
            raise ArgumentError(
                f"{what} holds {shown} ({name.replace('_', ' ').strip()}), which pickle cannot take along ({error}): "
                "define it at the top level of a module, in place of a lambda or a function inside of another; or use "
                "cloudpickle"
            ) from error


def html_text(text: str, passed: bool | None = None) -> str:
    """Return text for a notebook: monospaced and scrolling, with a coloured edge where something passed or failed.

    >>> html_text("a < b").endswith(">a &lt; b</pre>")
    True
    """
    edge = {None: "#bbbbbb", True: "#009E73", False: "#D55E00"}[passed]
    style = f"border-left:3px solid {edge};padding:0.3em 0.8em;"
    style += "overflow-x:auto;line-height:1.35;white-space:pre;font-family:ui-monospace,Menlo,Consolas,monospace"
    return f'<pre tabindex="0" style="{style}">{escape(text, quote=False)}</pre>'


class HtmlText:
    """Something whose text a notebook shows as it is, with a green or red edge where it has `passed`."""

    def _repr_html_(self) -> str:
        return html_text(str(self), getattr(self, "passed", None))
