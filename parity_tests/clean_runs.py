"""Runs in which nothing is wrong: the verdict must pass every one.

`python -m parity_tests.clean_runs [--workers 2] [--results clean_runs.jsonl] [--rows resnet50 …]` exports each
catalogue row in float32 and float16 and judges the file at ten seeds of parameters and inputs, then functions of torch
at several scales, sums of up to a million terms, masks of −∞ and equal values. It prints, kind by kind, how many runs
there were, how many of them the verdict failed, and its ratios. Finished jobs stand in the results file, and a second
call goes on after them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import export
from export.app.targets.calls import perturbed
from export.errors import UnsupportedOpError
from export.verdict.locating.failures import FAILURES
from parity_tests import clean_functions
from parity_tests.clean_functions import SCALES
from pure import tree
from pure.catalogue import CASES, Case

DTYPES = {"float32": torch.float32, "float16": torch.float16}
SEEDS = 10
MAX_JOBS_OF_A_PROCESS = 50
LENGTHS = (4_096, 100_000, 1_000_000)

Job = tuple[str, str, str]
"""The kind, the name within it, and the dtype."""


def jobs(rows: Sequence[str] = ()) -> Iterator[Job]:
    """Yield every job, catalogue rows first."""
    for dtype in DTYPES:
        yield from (("catalogue", row.name, dtype) for row in CASES if not rows or row.name in rows)
        if rows:
            continue
        for scale in SCALES:
            yield from ((scale, name, dtype) for name in clean_functions.functions(scale, DTYPES[dtype]))
        for length in LENGTHS if dtype == "float32" else LENGTHS[:1]:
            yield from ((f"{length} terms", name, dtype) for name in clean_functions.long_sums(8, DTYPES[dtype]))
        yield from (("masks", name, dtype) for name in clean_functions.masks(DTYPES[dtype]))
        yield from (("ties", name, dtype) for name in clean_functions.ties(DTYPES[dtype]))


def arguments(row: Case, dtype: torch.dtype, seed: int) -> tuple[Any, ...]:
    """Perturbed parameters, an input, statistics and extras, all drawn from a seed."""
    _, params, state, x, extras = row.example(seed=seed)
    drawn = {name: extras[name].to(dtype) for name, _ in row.extras}
    x = x.to(dtype) if row.tokens is None else x
    params = tree.cast(perturbed(params, seed), dtype)
    return params, x, perturbed(state, seed, upwards=True), {**extras, **drawn}


def judged(job: Job, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one record for each run of a job."""
    kind, name, dtype = job
    path = folder / "clean.onnx"
    if kind == "catalogue":
        row = next(row for row in CASES if row.name == name)
        fn: Any = row.make()
        args, *samples = (arguments(row, DTYPES[dtype], seed) for seed in range(SEEDS))
    else:
        (fn, args), samples = given(job), []
    try:
        export.to_onnx(fn, args, path)
        verdict = export.verify(fn, args, path, samples=samples)
    except (UnsupportedOpError, NotImplementedError) as error:  # neither is a verdict: no kernel, here or in PyTorch
        yield {"case": "", "status": "unsupported", "reason": str(error).splitlines()[0]}
        return
    for case in dict.fromkeys(line.case for line in verdict.rows):
        lines = [line for line in verdict.rows if line.case == case]
        failed = [f"{line.leaf}: {line.reason}" for line in lines if line.status not in ("pass", "skipped")]
        ratios = [line.ratio for line in lines if line.ratio is not None]
        yield {
            "case": case,
            "status": "fail" if failed else "pass",
            "ratio": max(ratios, default=None),
            "eager": max((line.eager for line in lines if line.eager is not None), default=None),
            "reason": "; ".join(failed)[:500],
        }


def given(job: Job) -> clean_functions.Function:
    """Return a job's function and its arguments."""
    kind, name, dtype = job
    if kind in SCALES:
        return clean_functions.functions(kind, DTYPES[dtype])[name]
    if kind.endswith(" terms"):
        return clean_functions.long_sums(int(kind.split()[0]), DTYPES[dtype])[name]
    return {"masks": clean_functions.masks, "ties": clean_functions.ties}[kind](DTYPES[dtype])[name]


def run(job: Job) -> list[dict[str, Any]]:
    """Do a job; an exception is a run that failed."""
    torch.set_num_threads(1)
    kind, name, dtype = job
    about = {"kind": kind, "name": name, "dtype": dtype}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = list(judged(job, Path(folder)))
        except FAILURES as error:  # whatever it is, a clean run has not passed
            found = [{"case": "", "status": "fail", "reason": f"{type(error).__name__}: {error}"[:500]}]
    seconds = round((time.perf_counter() - started) / len(found), 3)
    return [{**about, **record, "seconds": seconds} for record in found]


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return the counts and ratios of each kind, and every run that failed."""
    line = "{:<16} {:>6} {:>13} {:>8} {:>8} {:>12}"
    lines = [line.format("kind", "runs", "false alarms", "largest", "median", "unsupported")]
    kinds = dict.fromkeys(record["kind"] for record in records)
    for kind in [*kinds, "all"]:
        chosen = [record for record in records if kind in (record["kind"], "all")]
        runs = [record for record in chosen if record["status"] != "unsupported"]
        ratios = [record["ratio"] for record in runs if record.get("ratio") is not None] or [0.0]
        alarms = sum(record["status"] == "fail" for record in runs)
        largest, median = f"{max(ratios):.3g}", f"{statistics.median(ratios):.3g}"
        lines.append(line.format(kind, len(runs), alarms, largest, median, len(chosen) - len(runs)))
    lines.append(f"{sum(record['seconds'] for record in records):.0f} s of all workers together")
    lines += [
        f"  {record['kind']}, {record['name']}, {record['dtype']} {record['case']}: {record['reason']}"
        for record in records
        if record["status"] == "fail"
    ]
    return "\n".join(lines)


def main() -> None:
    """Do what is not in the results file yet, and print the table of all."""
    parser = argparse.ArgumentParser(description="Judge files in which nothing is wrong.")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("clean_runs.jsonl"))
    parser.add_argument("--rows", nargs="*", default=())
    options = parser.parse_args()
    text = options.results.read_text(encoding="utf-8") if options.results.exists() else ""
    records = [json.loads(line) for line in text.splitlines()]
    done = {(record["kind"], record["name"], record["dtype"]) for record in records}
    left = [job for job in jobs(options.rows) if job not in done]
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(options.workers, maxtasksperchild=50) as pool,
        options.results.open("a", encoding="utf-8") as file,
    ):
        for found in pool.imap_unordered(run, left):
            records += found
            file.write("".join(json.dumps(record) + "\n" for record in found))
            file.flush()
    print(table(records))


if __name__ == "__main__":
    main()
