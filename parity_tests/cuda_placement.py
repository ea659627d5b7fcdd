"""Where CUDA would take the nodes of every file of the catalogue: `python -m parity_tests.cuda_placement`.

Every row of the catalogue under six transforms, in four dtypes, with static and dynamic sizes, is exported and given
to ONNX Runtime on a stand-in for CUDA (`parity_tests.cuda_standin`), whose partitioner places the nodes. Nothing is
run: this is no measurement. A line of JSON a file goes to `--lines PATH` as it is known, and a second call goes on from
there; `--write` makes `golden/cuda_placement.json` and `docs/CUDA_PLACEMENT.md` of it. `--workers N` places N files at
a time; `--dtype NAME`, `--only WORD`, `--every N` and `--seconds N` take a part.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parity_tests import cuda_placement_table
from parity_tests.cuda_placement_cases import DTYPES, OPSETS, Subject, subject, subjects

__all__ = ["main", "placed", "run"]

MODULE = "parity_tests.cuda_placement"
FILES_PER_COLLECTION = 20


def placed(chosen: Subject) -> dict[str, Any]:
    """Translate a file as `to_onnx` does and say where its nodes would run; in a process on the stand-in.

    The function is recorded once, also where the file for CUDA is refused and the one for no target is looked at.
    """
    import torch  # first: see cuda_standin.guard

    from export.errors import ExportError, UnsupportedOpError
    from export.graph import onnx_export
    from export.ops.registry import LOWERINGS
    from export.runtime import sessions  # ONNX Runtime, after torch
    from export.trace.aten_graph import trace
    from parity_tests.cuda_standin.placing import place
    from pure.errors import PureError

    torch.set_num_threads(1)
    failures = (*sessions.ERRORS, TypeError, NotImplementedError)
    opset = OPSETS.get(chosen.dtype, onnx_export.DEFAULT_OPSET)
    try:
        fn, args, dynamic = subject(chosen)
        traced = trace(fn, args, dynamic, LOWERINGS)
        model, _ = onnx_export.translate(traced, frozenset(), opset, functions=True, target="cuda")
        return dataclasses.asdict(place(model))
    except (ExportError, PureError) as error:
        refusal = {"refused": type(error).__name__, "error": str(error)[:300]}
        refusal |= {"op": getattr(error, "op", ""), "dtype": getattr(error, "dtype", "")}
        if not isinstance(error, UnsupportedOpError) or "target='cuda'" not in str(error):
            return refusal
    except failures as error:
        return {"failed": type(error).__name__, "error": str(error)[:300]}
    try:  # what the table of kernels refused has to be what the provider leaves to the CPU
        model, _ = onnx_export.translate(traced, frozenset(), opset, functions=True)
        return refusal | {"confirmed": bool(place(model).data)}
    except failures as error:
        return refusal | {"confirmed": "is not set" in str(error) or "NOT_IMPLEMENTED" in str(error)}


def worker(path: str) -> None:
    """Place the subjects listed in a file, one line of JSON each on stdout with the seconds of CPU time it took."""
    warnings.simplefilter("ignore")
    gc.disable()  # a recording makes a hundred thousand objects; they are collected between files
    gc.freeze()
    for count, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines()):
        chosen = Subject(*json.loads(line))
        start = time.process_time()
        found = placed(chosen)
        seconds = round(time.process_time() - start, 3)
        print(json.dumps([dataclasses.astuple(chosen), found, seconds]), flush=True)
        if count % FILES_PER_COLLECTION == 0:
            gc.collect()


def run(chosen: Sequence[Subject], lines: Path, workers: int = 1, seconds: float | None = None) -> None:
    """Place subjects that are not in the file of lines yet, each worker a process on the stand-in."""
    from parity_tests.cuda_standin.process import PRELUDE, ROOT, environment  # the workers are started with it

    done = set(read(lines))
    todo = [one for one in chosen if one not in done]
    lock = threading.Lock()
    end = None if seconds is None else time.monotonic() + seconds

    def one_worker(number: int) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as tasks:
            tasks.writelines(json.dumps(dataclasses.astuple(one)) + "\n" for one in todo[number::workers])
            tasks.flush()
            code = f"{PRELUDE}import {MODULE} as m; m.worker({tasks.name!r})"
            command = [sys.executable, "-c", code]
            started = {"env": environment(), "cwd": ROOT, "stdout": subprocess.PIPE, "text": True}
            with subprocess.Popen(command, **started) as process:  # type: ignore[call-overload]
                for line in process.stdout:
                    if line.startswith("["):
                        with lock, lines.open("a", encoding="utf-8") as file:
                            file.write(line)
                    if end is not None and time.monotonic() > end:
                        process.terminate()
            if process.returncode and end is None:
                raise RuntimeError(f"a worker ended with status {process.returncode}")

    threads = [threading.Thread(target=one_worker, args=(i,)) for i in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def read(lines: Path) -> dict[Subject, dict[str, Any]]:
    """Read what is known already."""
    if not lines.exists():
        return {}
    known = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    return {Subject(*key): found for key, found, *_ in known}


def main(arguments: Sequence[str] | None = None) -> None:
    """Place what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=Path, default=Path("cuda_placement.jsonl"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--dtype", choices=DTYPES, action="append")
    parser.add_argument("--only", default="")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args(arguments)
    chosen = [one for one in subjects(tuple(asked.dtype or DTYPES)) if asked.only in f"{one.row}, {one.key}"]
    if asked.seconds != 0:
        run(chosen[:: asked.every], asked.lines, asked.workers, asked.seconds)
    if asked.write:
        cuda_placement_table.write(read(asked.lines))


if __name__ == "__main__":
    main()
