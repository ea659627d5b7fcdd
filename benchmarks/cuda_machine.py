"""All that a GPU machine is asked, in one go and into one file: `python -m benchmarks.cuda_machine --out FOLDER`.

In at most nine minutes: the environment, the checks of `parity_tests.cuda_checks` (predicted against real placement
and verdicts first), the timings of `benchmarks.cuda`, and the catalogue's verdicts. Each step has its part of the time,
each check and cell its own limit. Checks run side by side where there are CPUs for it; nothing runs beside a timing.
It needs no package registry and no pytest. The file is written whole after every result, so what is cut off keeps what
it had; run again with the same folder, it goes on where it stopped. On the stand-in for CUDA
(`parity_tests.cuda_standin`) each check goes as far as its first run.
"""

import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from benchmarks import cuda
from benchmarks.environment import environment
from export.runtime import doctor
from parity_tests.cuda_checks import CHECKS

UNTIL = {"checks": 0.4, "speed": 0.85, "catalogue": 1.0}
"""The steps, and the part of the time after which each begins nothing new."""

MINUTES = 8.7
"""What all takes, with a few seconds left of nine minutes to write and to end."""

CHECK_LIMIT, CATALOGUE_LIMIT = 90.0, 420.0
"""Seconds after which the process of a check, and that of the catalogue, is stopped."""

CPUS_PER_CHECK = 4


@dataclass
class Results:
    """The file and what is in it."""

    path: Path
    data: dict[str, Any]
    lock: Lock = field(default_factory=Lock)

    def put(self, part: str, name: str, value: Any) -> None:
        """Add a result and write the whole file, or leave the last one."""
        with self.lock:
            self.data.setdefault(part, {})[name] = value
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_name(f".{self.path.name}.partial")
            partial.write_text(json.dumps(self.data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(partial, self.path)

    def has(self, part: str, name: str) -> bool:
        """Whether a result is there that was not cut off."""
        found = self.data.get(part, {}).get(name)
        return found is not None and "stopped" not in found and "left out" not in found.get("notes", {})


def opened(folder: Path, device: str) -> Results:
    """The results of this device in the folder, begun before or new."""
    name = re.sub(r"[^a-z0-9]+", "-", (torch.cuda.get_device_name() if device == "cuda" else "cpu").lower())
    begun = sorted(folder.glob(f"cuda-{name}-[0-9]*.json"))
    if begun:
        return Results(begun[-1], json.loads(begun[-1].read_text(encoding="utf-8")))
    return Results(folder / f"cuda-{name}-{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.json", {})


def surroundings(device: str) -> dict[str, Any]:
    """The machine, its driver, and every version that matters."""
    found: dict[str, Any] = {**environment(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"multiprocessors": properties.multi_processor_count, "memory_bytes": properties.total_memory}
        asked = ["nvidia-smi", "--query-gpu=driver_version,name,clocks.max.sm", "--format=csv,noheader"]
        try:
            found["nvidia-smi"] = subprocess.run(asked, capture_output=True, text=True, timeout=30).stdout.strip()
        except (OSError, subprocess.TimeoutExpired) as missing:
            found["nvidia-smi"] = f"not to be had: {missing}"
    return found


def ran(module: str, arguments: Sequence[str], limit: float) -> dict[str, Any]:
    """Run a module that writes its result to a file; say how it ended."""
    with tempfile.TemporaryDirectory(prefix="pure-export-") as folder:
        path = Path(folder, "result.json")
        start = time.monotonic()
        command = [sys.executable, "-m", module, *arguments, str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"stopped": f"not done within {limit:.0f} s"}
        found: dict[str, Any] = {"seconds": round(time.monotonic() - start, 1), "passed": done.returncode == 0}
        if done.returncode == 0:
            return {**found, "facts": json.loads(path.read_text(encoding="utf-8"))}
        return {**found, "error": done.stderr.strip()[-3000:]}


def checks(results: Results, device: str, left: Callable[[], float], only: Sequence[str]) -> None:
    """Each check in a process of its own: one that crashes takes no other with it."""

    def check(name: str) -> None:
        if left() < 20:
            return
        found = ran("parity_tests.cuda_checks", [name, device], min(CHECK_LIMIT, left()))
        results.put("checks", name, found)
        print(f"check {name}: {'passed' if found.get('passed') else found.get('stopped', 'FAILED')}", flush=True)

    names = [name for name in CHECKS if (not only or name in only) and not results.has("checks", name)]
    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)) // CPUS_PER_CHECK)) as pool:
        list(pool.map(check, names))


def speed(results: Results, device: str, left: Callable[[], float], only: Sequence[str]) -> None:
    """The timings."""
    done = [name for name in results.data.get("speed", {}) if results.has("speed", name)]
    for found in cuda.measurements(bool(only), device, left() / 60, done):
        results.put("speed", found.name, found.to_dict())
        medians = ", ".join(f"{timing.name} {timing.quartiles[1] * 1e3:.3g} ms" for timing in found.timings)
        print(f"{found.name}: {medians or found.notes}", flush=True)


def catalogue(results: Results, device: str, left: Callable[[], float], only: Sequence[str]) -> None:
    """Every row of the catalogue by verdict, as far as the time goes: what lacks a kernel is named."""
    if left() < 30 or results.has("catalogue", "rows"):
        return
    limit = min(CATALOGUE_LIMIT, left() - 15)
    command = [sys.executable, "-m", "benchmarks.cuda_catalogue", device, str(limit), *only]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as lines:
        try:
            ended = f"with status {subprocess.run(command, stdout=lines, timeout=limit + 15).returncode}"
        except subprocess.TimeoutExpired:
            ended = "stopped"
        lines.seek(0)
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}\n")]
    rows = {row.pop("name"): row for row in found}
    results.put("catalogue", "rows", {"ended": ended, "verdicts": rows})
    print(f"catalogue: {sum(row['status'] == 'pass' for row in rows.values())} of {len(rows)} pass", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do every step that is not done yet; returns 1 if a check failed."""
    parser = ArgumentParser(prog="python -m benchmarks.cuda_machine", description="All checks and timings on a GPU.")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the results file is or goes")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="stop beginning anything new after this long")
    parser.add_argument("--steps", nargs="+", choices=UNTIL, default=list(UNTIL))
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="these checks and rows, and tiny timings")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device here; --device cpu shows that the steps run")
    results = opened(options.out, options.device)
    results.put("machine", "environment", surroundings(options.device))
    results.put("machine", "doctor", doctor.diagnose().to_dict())
    for step in options.steps:
        part = 1.0 if step == options.steps[-1] else UNTIL[step]
        end = begun + 60 * options.minutes * part
        do = {"checks": checks, "speed": speed, "catalogue": catalogue}[step]
        do(results, options.device, lambda end=end: end - time.monotonic(), options.only)
    failed = [name for name, found in results.data.get("checks", {}).items() if not found.get("passed")]
    print(f"{results.path}: " + (f"{len(failed)} checks did not pass: {', '.join(failed)}" if failed else "all passed"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
