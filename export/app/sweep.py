"""Many independent cells of work on any executor: in this process, on several, or on MPI, Dask or Ray.

Results and their order are those of a loop. A cell that raises, or whose process dies, is reported and the others go
on. With a record, each result is a line of JSON as soon as it is there, and an interrupted sweep goes on from it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from export.errors import ArgumentError
from pure_export_shared import PureExportError, json_ready

__all__ = ["EXECUTORS", "Outcome", "sweep"]

F = TypeVar("F", bound=Callable[..., Any])

EXECUTORS = ("serial", "process", "mpi", "dask", "ray")
PACKAGES = {"mpi": ("mpi4py.futures", "mpi4py"), "dask": ("distributed", "distributed"), "ray": ("ray", "ray")}
"""Executor → the module that it needs, and the distribution that has it."""
CELL_ERRORS = (
    *(PureExportError, ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError),
    *(OSError, RuntimeError, TypeError, ValueError),
)
"""What a cell may raise in this process without ending the sweep; on other processes it may be anything."""


@dataclass(frozen=True)
class Outcome:
    """What became of one cell.

    Attributes:
        cell: its name.
        value: what the function returned; None where it failed.
        error: the error's type and message, or that its process died; "" where it did not fail.
    """

    cell: str
    value: Any
    error: str = ""


def sweep(
    run: Callable[[str], Any],
    cells: Sequence[str],
    *,
    executor: str | Executor | None = None,
    workers: int | None = None,
    warm: Callable[[], Any] | None = None,
    record: str | os.PathLike[str] | None = None,
    tick: Callable[[str, float], None] | None = None,
) -> list[Outcome]:
    """Return what `run` gives for each cell, in the order of the cells.

    Args:
        run: a function of a cell's name. On other processes it must be picklable, as functions of a module are.
        cells: names, each once.
        executor: "serial" (or None), "process", "mpi", "dask", "ray", or any `concurrent.futures.Executor`, which stays
            open.
        workers: how many cells run at a time; by default as many as there are processors.
        warm: called once in each worker before its first cell.
        record: a JSONL file that results are appended to, and from which those of an interrupted sweep are taken; `run`
            must return what JSON can hold. Failed cells run again.
        tick: called with each cell that is done and the share of all that are.

    Raises:
        ArgumentError: an unknown executor, one whose package is not installed, cells that are not unique, or fewer
            workers than one.

    Example:
        >>> [outcome.value for outcome in sweep(str.upper, ["a", "b"])]
        ['A', 'B']
    """
    if len(set(cells)) != len(cells):
        raise ArgumentError("sweep: a cell is named twice; give each name once")
    if workers is not None and workers < 1:
        raise ArgumentError(f"sweep workers={workers}: expected at least 1")
    done = {} if record is None else _recorded(Path(record))
    found = {name: done[name] for name in cells if name in done}
    left = [name for name in cells if name not in found]
    for outcome in _outcomes(
        _Worker(_importable(run), warm and _importable(warm)), left, executor, workers or os.cpu_count() or 1
    ):
        found[outcome.cell] = outcome
        if record is not None:
            _append(Path(record), outcome)
        if tick is not None:
            tick(outcome.cell, len(found) / len(cells))
    return [found[name] for name in cells]


def _importable(function: F) -> F:
    """Return a function of the running script as other processes import it, by the name of its module.

    A process of MPI or Dask has another `__main__`.
    """
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if getattr(function, "__module__", "") != "__main__" or spec is None:
        return function
    found: F = getattr(importlib.import_module(spec.name), getattr(function, "__name__", ""), function)
    return found


_WARMED: set[Any] = set()
"""What has been warmed up in this process."""


@dataclass(frozen=True)
class _Worker:
    """The function with what comes before its first call in a process."""

    run: Callable[[str], Any]
    warm: Callable[[], Any] | None

    def __call__(self, cell: str) -> Any:
        if self.warm is not None and self.warm not in _WARMED:
            self.warm()
            _WARMED.add(self.warm)
        return self.run(cell)


def _outcomes(run: _Worker, cells: Sequence[str], executor: str | Executor | None, workers: int) -> Iterator[Outcome]:
    """Return the outcomes as they come."""
    if executor is None or executor == "serial":
        for cell in cells:
            yield _run(run, cell)
    elif executor == "process":
        yield from _on_processes(run, cells, workers)
    elif isinstance(executor, Executor):
        yield from _on_executor(run, list(cells), executor, workers)
    else:
        with ExitStack() as stack:
            yield from _on_executor(run, list(cells), _opened(executor, workers, stack), workers)


def _run(run: _Worker, cell: str) -> Outcome:
    try:
        return Outcome(cell, run(cell))
    except CELL_ERRORS as error:
        return _failed(cell, error)


def _failed(cell: str, error: BaseException) -> Outcome:
    return Outcome(cell, None, f"{type(error).__name__}: {error}")


def _outcome(cell: str, future: Future[Any]) -> Outcome:
    error = future.exception()
    return Outcome(cell, future.result()) if error is None else _failed(cell, error)


def _on_executor(run: _Worker, cells: list[str], executor: Executor, workers: int) -> Iterator[Outcome]:
    """Keep as many cells under way as there are workers; what breaks an executor for good fails all that are left."""
    running: dict[Future[Any], str] = {}
    waiting = list(reversed(cells))
    while waiting or running:
        while waiting and len(running) < workers:
            cell = waiting.pop()
            try:
                running[executor.submit(run, cell)] = cell
            except (BrokenExecutor, RuntimeError) as error:
                yield _failed(cell, error)
        for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
            yield _outcome(running.pop(future), future)


def _on_processes(run: _Worker, cells: Sequence[str], workers: int) -> Iterator[Outcome]:
    """Run on a pool that is made anew when a process dies; what was under way then runs again, one cell at a time."""
    waiting = list(reversed(cells))
    while waiting:
        running: dict[Future[Any], str] = {}
        suspects: list[str] = []
        with _pool(workers) as pool:
            while (waiting or running) and not suspects:
                while waiting and len(running) < workers:
                    cell = waiting.pop()
                    running[pool.submit(run, cell)] = cell
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    if isinstance(future.exception(), BrokenExecutor):
                        suspects = [running.pop(future), *suspects]
                    else:
                        yield _outcome(running.pop(future), future)
            for future, cell in running.items():  # beside the one whose process died
                wait([future])
                if isinstance(future.exception(), BrokenExecutor):
                    suspects.append(cell)
                else:
                    yield _outcome(cell, future)
        for cell in suspects:
            with _pool(1) as pool:
                future = pool.submit(run, cell)
                if isinstance(future.exception(), BrokenExecutor):
                    yield Outcome(cell, None, "its process died")
                else:
                    yield _outcome(cell, future)


def _pool(workers: int) -> ProcessPoolExecutor:
    context = get_context("spawn")  # a fork of a process with threads can hang
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """End this process once its parent has: a pool's processes wait for ever if their parent is killed."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def _opened(name: str, workers: int, stack: ExitStack) -> Executor:
    """Return an executor that closes with the stack.

    Raises:
        ArgumentError: an unknown name, or a package that is not installed.
    """
    if name not in PACKAGES:
        raise ArgumentError(f"executor {name!r}: expected one of {', '.join(EXECUTORS)}, or an Executor")
    module, package = PACKAGES[name]
    try:
        found = importlib.import_module(module)  # an optional package, imported where it is asked for
    except ImportError as error:
        raise ArgumentError(f"executor {name!r} needs {package}: python -m pip install {package} ({error})") from error
    if name == "mpi":
        made: Executor = stack.enter_context(found.MPIPoolExecutor(max_workers=workers))
    elif name == "dask":
        dask = importlib.import_module("dask")  # which comes with distributed
        stack.enter_context(dask.config.set({"distributed.worker.daemon": False}))  # cells may start processes
        client = stack.enter_context(found.Client(n_workers=workers, threads_per_worker=1))
        made = stack.enter_context(client.get_executor())
    else:
        found.init(num_cpus=workers, ignore_reinit_error=True)
        stack.callback(found.shutdown)
        made = _Ray(found)
    return made


def _called(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function; Ray makes tasks of functions only."""
    return fn(*args, **kwargs)


class _Ray(Executor):
    """Ray's tasks as an executor.

    Args:
        ray: the module, initialised.
    """

    def __init__(self, ray: Any) -> None:
        self.ray = ray

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a task."""
        future: Future[Any] = self.ray.remote(_called).remote(fn, *args, **kwargs).future()
        return future


def _recorded(path: Path) -> dict[str, Outcome]:
    """Return the cells of a record that have a value; a last line that was cut off counts as not there."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not entry["error"]:
            found[entry["cell"]] = Outcome(entry["cell"], entry["value"])
    return found


def _append(path: Path, outcome: Outcome) -> None:
    entry = {"cell": outcome.cell, "value": outcome.value, "error": outcome.error}
    with path.open("a+", encoding="utf-8") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(file.tell() - 1)
            if file.read(1) != "\n":  # the last line was cut off
                file.write("\n")
        file.write(json.dumps(json_ready(entry), ensure_ascii=False) + "\n")
