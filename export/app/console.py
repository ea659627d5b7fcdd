"""The command line's way of speaking: results to stdout, everything else to stderr, errors as one clean message."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from export.errors import PureExportError
from pure_export_shared import documented, json_ready

__all__ = ["FAILED", "REFUSED", "Commands", "emit", "progress", "remember", "status", "stderr", "stdout", "table"]

FAILED, REFUSED = 1, 2
"""Exit codes: a verdict failed (or the installation is not healthy); a typed error."""

LOG_OF_RECORDING = "torch._subclasses.fake_tensor"
"""Where PyTorch logs a whole traceback whenever a function cannot be recorded; the typed error says it in a line."""

STYLES = {"pass": "green", "fail": "bold red", "error": "bold red", "ambiguous": "yellow", "skipped": "yellow"}


def stdout() -> Console:
    """Return the console for results; wide where it is no terminal, so that nothing is cut off in a pipe."""
    console = Console(markup=False, highlight=False, emoji=False, file=sys.stdout)
    return console if console.is_terminal else Console(markup=False, highlight=False, emoji=False, width=200)


def stderr() -> Console:
    """Return the console for progress and messages."""
    return Console(markup=False, highlight=False, emoji=False, stderr=True)


def emit(data: Any) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(json_ready(data), ensure_ascii=False, allow_nan=False) + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, right: Sequence[str] = ()) -> None:
    """Print a table on stdout; `right` names the columns that are aligned right."""
    drawn = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        drawn.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    stdout().print(drawn)


def status(word: str) -> Text:
    """Return a verdict's status in its colour."""
    return Text(word, style=STYLES.get(word, ""))


@contextlib.contextmanager
def progress(description: str) -> Iterator[Callable[[str, float], None]]:
    """Give a function that moves a bar on stderr: (what is done now, part of the whole); no bar without a terminal."""
    console = stderr()
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(description, total=1.0)

        def tick(what: str, done: float) -> None:
            bar.update(task, description=what, completed=done)

        yield tick


def remember(ctx: typer.Context, param: typer.CallbackParam, value: bool) -> bool:
    """Keep a flag where the error handler finds it."""
    if value and param.name:
        ctx.meta[param.name] = True
    return value


class Commands(TyperGroup):
    """The commands: a typed error becomes one message on stderr and exit code 2, or a traceback with --debug."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        noisy = logging.getLogger(LOG_OF_RECORDING)
        before, noisy.disabled = noisy.disabled, True
        try:
            return super().invoke(ctx)
        except PureExportError as error:
            if ctx.meta.get("debug"):
                raise
            name = type(error).__name__
            if ctx.meta.get("as_json"):
                emit({"error": {"type": name, "message": str(error)}})
            stderr().print(f"{name}: {error}", style="red", soft_wrap=True)
            stderr().print(documented(type(error)), soft_wrap=True)
            raise typer.Exit(REFUSED) from error
        finally:
            noisy.disabled = before
