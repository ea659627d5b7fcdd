"""Attributes of a user's modules and files, loaded so that whatever fails there is one typed error with its line."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from export.app.targets.nearest_names import nearest_five
from export.errors import ArgumentError, PureExportError

__all__ = ["UserCode", "attribute"]


class UserCode:
    """Turns whatever a user's code raises in the body, of any class, into one typed error.

    Args:
        doing: what was being done, such as "importing net.py".
        prefer: the file whose line is named if the failure passed through it, else the innermost line.

    Errors of this library pass as they are.

    Raises:
        ArgumentError: with the type and the text of what was raised, its file and its line.
    """

    def __init__(self, doing: str, prefer: str = "") -> None:
        self.doing, self.prefer = doing, prefer

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, SystemExit):
            raise ArgumentError(
                f"{self.doing} ends the process{self._line(error)}: put what is a script under "
                "`if __name__ == '__main__':`"
            ) from error
        if isinstance(error, Exception) and not isinstance(error, PureExportError):
            text = error.msg if isinstance(error, SyntaxError) else str(error)
            raise ArgumentError(
                f"{self.doing} raises {type(error).__name__}: {text}{self._line(error)}; --debug shows all of it"
            ) from error

    def _line(self, error: BaseException) -> str:
        """Return where it was raised: a syntax error's own line, else the innermost line of the user's file."""
        if isinstance(error, SyntaxError) and error.filename:
            return f" ({error.filename}:{error.lineno})"
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
        frames = [f for f in frames if f.filename not in (__file__, importlib.__file__)]
        own = [frame for frame in frames if frame.filename == self.prefer] or frames
        return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def attribute(module: str, path: str) -> tuple[Any, str]:
    """Return an attribute of a module or of a file, and the file that it stands in.

    Args:
        module: a module's dotted name, found from the working folder too, or the path of a .py file, whose folder can
            be imported from while it is loaded.
        path: the attribute's name; dots go deeper.

    Raises:
        ArgumentError: there is no such module, file or attribute, or loading it raises.
    """
    loaded = _from_file(Path(module)) if module.endswith(".py") else _from_name(module)
    found: Any = loaded
    for done, part in enumerate(parts := path.split(".")):
        if not hasattr(found, part):
            owner = ":".join(filter(None, (module, ".".join(parts[:done]))))
            public = [
                name
                for name, value in getattr(found, "__dict__", {}).items()
                if not name.startswith("_") and not isinstance(value, ModuleType)
            ]
            raise ArgumentError(f"{owner} has no attribute {part!r}{nearest_five(part, public)}")
        found = getattr(found, part)
    return found, getattr(loaded, "__file__", None) or ""


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules of a folder be imported in the body."""
    name = str(folder)
    sys.path.insert(0, name)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the code that was loaded may have taken it away
            sys.path.remove(name)


def _from_name(module: str) -> ModuleType:
    if not all(part.isidentifier() for part in module.split(".")):
        raise ArgumentError(f"{module!r} is neither a module's dotted name nor a .py file: give MODULE:ATTRIBUTE")
    absent: ModuleNotFoundError | None = None
    with _importable(Path.cwd()), UserCode(f"importing {module}"):
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # it is there, and imports what is not
            absent = error
    here = [e.stem for e in sorted(Path.cwd().iterdir()) if e.suffix == ".py" or (e / "__init__.py").is_file()]
    raise ArgumentError(
        f"module {module!r} cannot be found from {Path.cwd()} or among what is installed"
        f"{nearest_five(module, here)}; a file is given by its path, as net.py:ATTRIBUTE"
    ) from absent


def _from_file(file: Path) -> ModuleType:
    if not file.is_file():
        beside = [entry.name for entry in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise ArgumentError(f"{file}: no such file{nearest_five(file.name, beside)}")
    whole = file.resolve()
    spec = importlib.util.spec_from_file_location(whole.stem, whole)
    if spec is None or spec.loader is None:
        raise ArgumentError(f"{file} cannot be loaded as a Python file")
    module = importlib.util.module_from_spec(spec)
    known = sys.modules.get(whole.stem)
    with _importable(whole.parent), UserCode(f"importing {file}", str(whole)):
        sys.modules[whole.stem] = module  # dataclasses and pickling look their module up by name
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[whole.stem]
            raise
        finally:
            if known is not None:  # a file called like a module that is loaded takes nothing from it
                sys.modules[whole.stem] = known
    return module
