"""Prints one table of every law and identity of gradient-flow theory: `python -m parity_tests.theory_check`.

Each line has what was predicted, what was measured with its 95% interval, z for laws that are exact at finite width and
the relative error for limits, and the verdict. Exits 1 if a law disagrees, or a negative control is not rejected.

`--executor process` (or mpi, dask, ray) measures the sections on `--workers` processes; rows and order stay the same.
`--record FILE.jsonl` keeps sections that are measured, so that an interrupted run goes on from there.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from dataclasses import asdict
from typing import Any

import torch

from export.app.sweep import EXECUTORS, sweep
from parity_tests import theory_laws
from parity_tests.theory_identities import identities
from parity_tests.theory_rows import Row, text

SECTIONS = {
    "identities": identities,
    "exact": theory_laws.exact,
    "spectra": theory_laws.spectra,
    "correlations": theory_laws.correlations,
    "norms": theory_laws.norms,
    "gates": theory_laws.gates,
    "controls": theory_laws.controls,
}


def warm() -> None:
    """Prepare a process for sections."""
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")  # PyTorch's own, on its first jvp
    torch.set_num_threads(1)  # many small products: a second thread costs more than it brings


def section(name: str) -> list[dict[str, Any]]:
    """Return the rows of a section."""
    return [asdict(row) for row in SECTIONS[name]()]


def rows(executor: str = "serial", workers: int | None = None, record: str | None = None) -> list[Row]:
    """Return all rows.

    Raises:
        RuntimeError: a section raised, or its process died.
    """
    found = sweep(section, list(SECTIONS), executor=executor, workers=workers, warm=warm, record=record)
    if failed := [f"{outcome.cell}: {outcome.error}" for outcome in found if outcome.error]:
        raise RuntimeError("sections failed:\n" + "\n".join(failed))
    return [Row(**row) for outcome in found for row in outcome.value]


def main(*arguments: str) -> int:
    """Print the table, and return 1 if a row is not as expected."""
    parser = argparse.ArgumentParser(prog="python -m parity_tests.theory_check", description=__doc__)
    parser.add_argument("--executor", choices=EXECUTORS, default="serial")
    parser.add_argument("--workers", type=int, metavar="N")
    parser.add_argument("--record", metavar="FILE.jsonl")
    options = parser.parse_args(arguments)
    start, used = time.perf_counter(), time.process_time()
    found = rows(options.executor, options.workers, options.record)
    print(text(found))
    spent = f"{time.perf_counter() - start:.0f} s, {time.process_time() - used:.0f} s of processor time"
    print(f"{spent}, one thread")
    return int(not all(row.passed for row in found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
