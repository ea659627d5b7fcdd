"""How the cost of a whole gradient grows with depth, width and batch: eager, `export.jit`, `torch.compile`.

A residual MLP, its gradient by every weight, weights as arguments. Each point of each line runs in a process of its
own, which compiles, calls and exports with nothing else in memory; a line ends where a process does not within the
limit. Peak memory is what calls take above what stood before the first, which compiles. An exponent is the slope of the
logarithms over the largest half of a line's points, at least three: small sizes show fixed costs.
`python -m benchmarks.growth` draws the committed results, one picture a quantity.
"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.func import grad

import export
import pure
from benchmarks.harness import Measurement
from benchmarks.memory import MIB, status, trim
from pure.block import Block

__all__ = ["AXES", "NAME", "QUANTITIES", "SIDES", "exponent", "measurements"]

NAME = "growth"
LIMIT = 120.0
"""Seconds after which the process of a point is stopped, and its line ends."""

SMALLEST = {"depth": 10, "width": 64, "batch": 32}
AXES = {
    "depth": (10, 30, 100, 300, 1000),
    "width": (64, 128, 256, 512, 1024),
    "batch": (32, 128, 512, 2048, 8192),
}
"""The sizes along each axis; the other two axes stand at their smallest."""

SIDES = ("eager", "export.jit", "export.jit, Repeat", "torch.compile")
QUANTITIES = {
    "call": "seconds a call",
    "peak": "peak memory, MiB",
    "compile": "seconds to compile",
    "export": "seconds to export",
    "file": "size of the file, MiB",
}
RESULTS = Path("benchmarks/results/growth.json")
PICTURES = Path("docs/assets")


def network(depth: int, width: int, repeat: bool) -> Block:
    """Return `depth` residual blocks of two linear maps, as one block repeated or each by itself."""
    if repeat:
        return pure.Repeat(pure.nets.residual_mlp(width, width, 1, 0.1), depth)
    return pure.nets.residual_mlp(width, width, depth, 0.1)


def one_point(side: str, depth: int, width: int, batch: int) -> dict[str, float]:
    """Measure one size of one side in this process."""
    block = network(depth, width, side.endswith("Repeat"))
    generator = torch.Generator().manual_seed(0)
    params, state = block.init(generator)
    x = torch.randn(batch, width, generator=generator)

    def loss(params: Any, x: Any) -> torch.Tensor:
        y: torch.Tensor = block(params, x, state)
        return y.square().mean()

    fn: Callable[..., Any] = grad(loss)
    small: Callable[..., Any] = grad(lambda w, x: (x @ w).relu().square().mean())
    compiled = fn
    if side.startswith("export"):
        compiled, small = export.jit(fn, device="cpu"), export.jit(small, device="cpu")
    elif side == "torch.compile":
        compiled, small = torch.compile(fn, fullgraph=True), torch.compile(small, fullgraph=True)
    small(torch.ones(3, 3), torch.ones(2, 3))  # what is imported and started once is not this function's
    trim()
    before = status("VmRSS")
    start = time.perf_counter()
    compiled(params, x)
    found = {"compile": time.perf_counter() - start} if compiled is not fn else {}
    trim()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # what compiling took and gave back is not a call's
    seconds: list[float] = []
    while len(seconds) < 5 or (sum(seconds) < 0.5 and len(seconds) < 200):
        start = time.perf_counter()
        compiled(params, x)
        seconds.append(time.perf_counter() - start)
    found |= {"call": median(seconds), "peak": max(status("VmHWM") - before, 1) / MIB}
    if side.startswith("export"):
        with tempfile.TemporaryDirectory(prefix="pure-export-") as folder:
            path = Path(folder, "file.onnx")
            start = time.perf_counter()
            export.to_onnx(fn, (params, x), path)
            found["export"] = time.perf_counter() - start
            found["file"] = sum(file.stat().st_size for file in Path(folder).iterdir()) / MIB
    return found


def measurements(quick: bool = False) -> Iterator[Measurement]:
    """Along each axis every side, its sizes in rising order and the sides interleaved."""
    for axis, sizes in AXES.items():
        lines: dict[str, dict[int, dict[str, float]]] = {side: {} for side in SIDES}
        ended: dict[str, str] = {}
        for size in sizes[: 2 if quick else None]:
            for side in SIDES[:3] if quick else SIDES:
                if side in ended:
                    continue
                try:
                    lines[side][size] = isolated(side, {**SMALLEST, axis: size})
                except subprocess.TimeoutExpired:
                    ended[side] = f"no result within {LIMIT:.0f} s at {axis} {size}"
                except subprocess.CalledProcessError as failure:
                    message = (failure.stderr.strip().splitlines() or ["no message"])[-1]
                    ended[side] = f"{message[:200]} at {axis} {size}"
        notes: dict[str, Any] = {"lines": lines, "ended": ended}
        for side, line in lines.items():
            for quantity in QUANTITIES:
                slope = exponent({size: point[quantity] for size, point in line.items() if quantity in point})
                if slope is not None:
                    notes[f"exponent of {QUANTITIES[quantity]}, {side}"] = slope
        yield Measurement(axis, notes, ())


def isolated(side: str, sizes: Mapping[str, int]) -> dict[str, float]:
    """Measure one point in a process of its own, where inductor finds no cache."""
    with tempfile.TemporaryDirectory(prefix="pure-export-") as folder:
        environment = {**os.environ, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "TORCHINDUCTOR_CACHE_DIR": folder}
        command = [sys.executable, "-m", "benchmarks.growth", side, *map(str, sizes.values())]
        done = subprocess.run(command, env=environment, timeout=LIMIT, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def exponent(line: Mapping[int, float]) -> float | None:
    """Return the slope of log y over log x in the largest half of the points, at least three; None for fewer.

    >>> round(exponent({10: 5.0, 20: 5.0, 40: 20.0, 80: 80.0, 160: 320.0}), 6)
    2.0
    """
    count = max(3, math.ceil(len(line) / 2))
    if len(line) < count:
        return None
    largest = sorted(line)[-count:]
    slope, _ = np.polyfit(np.log(largest), np.log([line[size] for size in largest]), 1)
    return float(slope)


def drawn(data: Mapping[str, Any], quantity: str) -> bytes:
    """Return one quantity as an SVG file: a log-log panel an axis, the exponents in its legend."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(AXES), figsize=(12, 5), sharey=True, layout="constrained")
    for panel, measurement in zip(panels, data["measurements"], strict=True):
        for colour, side in zip(("black", "C0", "C2", "C1"), SIDES, strict=True):
            points = measurement["notes"]["lines"][side].items()
            line = {int(size): point[quantity] for size, point in points if quantity in point}
            slope = measurement["notes"].get(f"exponent of {QUANTITIES[quantity]}, {side}")
            if line:
                label = side if slope is None else f"{side}: {slope:.2f}"
                panel.loglog(list(line), list(line.values()), "o-", color=colour, markersize=4, label=label)
        panel.set_xlabel(measurement["name"])
        panel.grid(visible=True, which="major", alpha=0.3)
        panel.legend(fontsize=8, title="exponent at the largest sizes", loc="upper center", bbox_to_anchor=(0.5, -0.18))
    panels[0].set_ylabel(QUANTITIES[quantity])
    file = io.BytesIO()
    with plt.rc_context({"svg.hashsalt": "growth", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    return file.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one point and print it, or draw the committed results."""
    parser = ArgumentParser(prog="python -m benchmarks.growth", description="Draw, or measure one point.")
    parser.add_argument("side", nargs="?", choices=SIDES)
    parser.add_argument("sizes", nargs="*", type=int, metavar="SIZE", help="depth, width and batch")
    options = parser.parse_args(arguments)
    if options.side:
        print(json.dumps(one_point(options.side, *options.sizes)))
        return
    data = json.loads(RESULTS.read_text(encoding="utf-8"))
    for quantity in QUANTITIES:
        (PICTURES / f"growth-{quantity}.svg").write_bytes(drawn(data, quantity))


if __name__ == "__main__":
    main()
