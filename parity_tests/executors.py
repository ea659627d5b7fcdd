"""The same sweep on every executor that is installed, compared with a loop: `python -m parity_tests.executors`.

Cells are verdicts of exported transforms, of `parity_tests.transform_matrix`; one more raises. All results but the
seconds must be equal, in the same order. `mpi` needs mpi4py with an MPI library (`python -m pip install mpi4py mpich`),
`dask` needs distributed. With `--dies` a cell kills its process, which MPI alone answers by ending all of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from export.app.sweep import EXECUTORS, PACKAGES, Outcome, sweep
from parity_tests import transform_matrix

__all__ = ["CELLS", "installed", "main", "run"]

CELLS = ("vjp, static, MLP", "jvp, static, MLP", "fails", "grad by input, dynamic, MLP")
DIES = "dies"


def run(cell: str) -> dict[str, Any]:
    """Return a cell's verdict without its seconds; "fails" raises, "dies" ends its process."""
    if cell == DIES:
        os.kill(os.getpid(), signal.SIGKILL)
    if cell == "fails":
        raise ZeroDivisionError("on purpose")
    found = transform_matrix.measure_named(cell)
    return {name: value for name, value in found.items() if name != "seconds"}


def warm() -> None:
    """Export once, so that what only the first export of a process does is done."""
    transform_matrix.next_export_passes()


def installed() -> list[str]:
    """Return the executors whose packages are installed."""
    return [name for name in EXECUTORS if name not in PACKAGES or importlib.util.find_spec(PACKAGES[name][1])]


def _swept(name: str, cells: Sequence[str], workers: int) -> tuple[list[Outcome], float, int]:
    """Return the outcomes, the seconds, and how many cells a second sweep with the same record runs again."""
    start, again = time.perf_counter(), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "cells.jsonl"
        found = sweep(run, cells, executor=name, workers=workers, warm=warm, record=record)
        spent = time.perf_counter() - start
        good = [outcome.cell for outcome in found if not outcome.error]
        sweep(run, good, executor=name, workers=workers, record=record, tick=lambda cell, _: again.append(cell))
    return found, spent, len(again)


def main(*arguments: str) -> int:
    """Compare the executors, and return 1 if one differs from the loop."""
    parser = argparse.ArgumentParser(prog="python -m parity_tests.executors", description=__doc__)
    parser.add_argument("--executors", nargs="*", choices=EXECUTORS, default=installed())
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dies", action="store_true", help="with a cell that kills its process")
    options = parser.parse_args(arguments)
    cells = [*CELLS[:2], DIES, *CELLS[2:]] if options.dies else list(CELLS)
    expected = {outcome.cell: outcome for outcome in sweep(run, CELLS, warm=warm)}
    table = Table("executor", "cells", "equal to a loop", "failed", "run again from the record", "seconds")
    wrong = 0
    for name in options.executors:
        found, spent, again = _swept(name, cells, options.workers)
        equal = [outcome.cell for outcome in found] == cells
        equal &= all(outcome == expected[outcome.cell] for outcome in found if outcome.cell != DIES)
        equal &= all(bool(outcome.error) for outcome in found if outcome.cell == DIES)
        wrong += not equal or again > 0
        failed = "; ".join(f"{outcome.cell}: {outcome.error[:60]}" for outcome in found if outcome.error)
        table.add_row(name, str(len(cells)), "yes" if equal else "NO", failed, str(again), f"{spent:.1f}")
        print(f"{name}: {'equal' if equal else 'NOT EQUAL'}, {spent:.1f} s", flush=True)
        if not equal:
            print([outcome for outcome in found if outcome != expected.get(outcome.cell)])
    Console(width=150).print(table)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
