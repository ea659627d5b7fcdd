"""Prints measurements as a table, and writes them as JSON together with the environment."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Measurement

UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


def unit(seconds: float) -> str:
    """The largest unit in which the number is at least 1."""
    return next((name for name, size in UNITS.items() if seconds >= size), "ns")


def digits(seconds: float, name: str) -> str:
    """Three significant digits in the given unit, without its name."""
    value = seconds / UNITS[name]
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def written(value: object) -> str:
    """A note's value, numbers with fractions to three digits."""
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def print_measurement(measurement: Measurement, console: Console) -> None:
    """One table: median, quartiles and ratio of each contender."""
    notes = ", ".join(f"{name} {written(value)}" for name, value in measurement.notes.items())
    if not measurement.timings:
        console.print(f"{measurement.name}: {notes}", markup=False)
        return
    table = Table(title=measurement.name, caption=notes or None, title_justify="left", caption_justify="left")
    for heading in ("contender", "median", "quartiles", "ratio", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "contender" else "right", no_wrap=True)
    for timing in measurement.timings:
        lower, median, upper = timing.quartiles
        low, high = timing.ratio_interval
        name = unit(median)
        spread = f"{digits(lower, name)} – {digits(upper, name)}"
        middle = f"{digits(median, name)} {name}"
        table.add_row(timing.name, middle, spread, f"{timing.ratio:.3f}", f"{low:.2f} – {high:.2f}")
    console.print(table)


def write_json(measurements: Sequence[Measurement], environment: dict[str, object], path: Path) -> None:
    """Write one whole file, or none: it is written beside its place and then moved there."""
    data = {"environment": environment, "measurements": [measurement.to_dict() for measurement in measurements]}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
