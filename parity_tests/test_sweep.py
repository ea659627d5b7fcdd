"""A sweep gives on every executor what a loop gives, reports a cell that dies, and goes on from its record."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from export.app.sweep import EXECUTORS, Outcome, sweep
from export.errors import ArgumentError
from parity_tests import sweep_cells
from parity_tests.sources import ROOT
from parity_tests.sweep_cells import nap, square, warm

CELLS = [str(number) for number in range(6)]


def values(found: list[Outcome]) -> list[float]:
    return [outcome.value["square"] for outcome in found]


def test_every_executor_gives_what_a_loop_gives() -> None:
    expected = [float(number) ** 2 for number in range(6)]
    assert values(sweep(square, CELLS)) == expected
    with ThreadPoolExecutor(2) as threads:
        assert values(sweep(square, CELLS, executor=threads, workers=2)) == expected


def test_a_cell_that_dies_is_reported_and_the_rest_go_on() -> None:
    """Also what ran beside it: the pool of processes breaks as a whole, and is made anew."""
    cells = ["1", "dies", "2", "fails", "3"]
    found = sweep(square, cells, executor="process", workers=2, warm=warm)
    assert [outcome.cell for outcome in found] == cells
    assert [outcome.error for outcome in found] == ["", "its process died", "", "ZeroDivisionError: on purpose", ""]
    assert [found[at].value for at in (0, 2, 4)] == [{"square": n, "warmed": 1.0} for n in (1.0, 4.0, 9.0)]


def test_a_sweep_goes_on_from_its_record(tmp_path: Path) -> None:
    record, late = tmp_path / "cells.jsonl", str(tmp_path / "late")
    first = sweep(square, ["1", late, "2"], record=record)
    assert [outcome.error[:17] for outcome in first] == ["", "FileNotFoundError", ""]
    with record.open("a", encoding="utf-8") as file:
        file.write('{"cell": "3", "val')  # as a killed process leaves it
    Path(late).touch()
    done: list[str] = []
    again = sweep(square, ["2", late, "3", "1"], record=record, tick=lambda cell, share: done.append(cell))
    assert done == [late, "3"]
    assert values(again) == [4.0, 0.0, 9.0, 1.0]
    assert len(record.read_text(encoding="utf-8").splitlines()) == 6
    assert values(sweep(lambda cell: None, ["1", "2", "3"], record=record)) == [1.0, 4.0, 9.0]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for does not."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at as Linux shows them")
def test_workers_end_when_the_sweep_is_killed_and_the_next_one_goes_on(tmp_path: Path) -> None:
    cells = [str(tmp_path / name) for name in ("first", "second", "late", "last")]
    record = tmp_path / "cells.jsonl"
    code = (
        "import sys; from export.app.sweep import sweep; from parity_tests.sweep_cells import nap\n"
        "if __name__ == '__main__': sweep(nap, sys.argv[2:], executor='process', workers=1, record=sys.argv[1])"
    )
    script = tmp_path / "sweeping.py"
    script.write_text(code, encoding="utf-8")
    process = subprocess.Popen([sys.executable, script, record, *cells], env={**os.environ, "PYTHONPATH": str(ROOT)})
    late, deadline = Path(cells[2]), time.monotonic() + 300
    while not (late.exists() and late.read_text(encoding="utf-8")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    worker = int(late.read_text(encoding="utf-8"))
    assert alive(worker)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while alive(worker):
        assert time.monotonic() < deadline, "the worker has not ended in 30 s"
        time.sleep(0.1)
    assert [json.loads(line)["cell"] for line in record.read_text(encoding="utf-8").splitlines()] == cells[:2]
    Path(f"{cells[2]}.awake").touch()
    done: list[str] = []
    found = sweep(nap, cells, record=record, tick=lambda cell, share: done.append(cell))
    assert [outcome.value for outcome in found] == cells
    assert done == cells[2:]


def test_workers_warm_up_once() -> None:
    sweep_cells.WARMED.clear()
    sweep(square, CELLS, warm=warm)
    sweep(square, CELLS, warm=warm)
    assert len(sweep_cells.WARMED) <= 1


def test_mistakes() -> None:
    with pytest.raises(ArgumentError, match=f"expected one of {', '.join(EXECUTORS)}"):
        sweep(square, CELLS, executor="threads")
    with pytest.raises(ArgumentError, match="named twice"):
        sweep(square, ["1", "1"])
    with pytest.raises(ArgumentError, match="at least 1"):
        sweep(square, CELLS, workers=0)


@pytest.mark.parametrize(("name", "package"), [("mpi", "mpi4py"), ("dask", "distributed"), ("ray", "ray")])
def test_a_missing_package_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mpi4py.futures" if name == "mpi" else package, None)
    with pytest.raises(ArgumentError, match=f"pip install {package}"):
        sweep(square, CELLS, executor=name)
