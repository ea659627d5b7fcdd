"""Command line: `python -m benchmarks [NAME] [--json PATH] [--quick]`."""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import blocks, compilers, cuda, exporters, flow, forms, growth, memory, spmd, watching
from benchmarks.environment import environment
from benchmarks.report import print_measurement, write_json

SUITES = {
    blocks.NAME: blocks.measurements,
    compilers.NAME: compilers.measurements,
    exporters.NAME: exporters.measurements,
    flow.NAME: flow.measurements,
    forms.NAME: forms.measurements,
    growth.NAME: growth.measurements,
    memory.NAME: memory.measurements,
    spmd.NAME: spmd.measurements,
    watching.NAME: watching.measurements,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one suite, or all of them, and print a table for each comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Timings side by side, in one run.")
    names = sorted([*SUITES, cuda.NAME])
    parser.add_argument("name", nargs="?", choices=names, help="the suite to run (default: all but cuda)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where the suite cuda runs")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every number and the environment there")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: shows that it runs, not a result")
    options = parser.parse_args(arguments)

    console = Console()
    surroundings = environment()
    console.print(", ".join(f"{name} {value}" for name, value in surroundings.items() if name != "versions"))
    console.print(", ".join(f"{name} {value}" for name, value in surroundings["versions"].items()))
    measurements = []
    for name in [options.name] if options.name else SUITES:
        suite = functools.partial(cuda.measurements, device=options.device) if name == cuda.NAME else SUITES[name]
        for measurement in suite(options.quick):
            print_measurement(measurement, console)
            measurements.append(measurement)
            if options.json:  # after each, since a suite may take an hour
                write_json(measurements, surroundings, options.json)
    if options.json:
        console.print(f"wrote {options.json}")


if __name__ == "__main__":
    main()
