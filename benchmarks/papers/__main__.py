"""Command line: `python -m benchmarks.papers [NAME] [--json FOLDER] [--figures FOLDER] [--quick]`."""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console

from benchmarks.environment import environment
from benchmarks.papers import deepnorm, highway, layernorm, path_lengths, rezero, shattered
from benchmarks.papers.finding import Reproduction

REPRODUCTIONS: dict[str, ModuleType] = {
    "shattered": shattered,
    "path_lengths": path_lengths,
    "rezero": rezero,
    "layernorm": layernorm,
    "highway": highway,
    "deepnorm": deepnorm,
}


def show(found: Reproduction, seconds: float, console: Console) -> None:
    """Claims and numbers as text."""
    console.print(
        f"\n{found.name}: {found.verdict} ({found.paper}; {seconds:.0f} s)",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for finding in found.findings:
        held = f"{'holds' if finding.holds else 'does not hold'}{' (ours)' if finding.ours else ''}"
        console.print(f"  {held}: {finding.claim}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"    rule: {finding.rule}", markup=False, highlight=False, soft_wrap=True)
        for what, value in finding.found.items():
            console.print(f"    {what}: {value}", markup=False, highlight=False, soft_wrap=True)


def write(data: dict[str, Any], path: Path) -> None:
    """One whole file, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one reproduction, or all of them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.papers", description="Published claims, measured again."
    )
    parser.add_argument("name", nargs="?", choices=list(REPRODUCTIONS), help="which one to run (default: all)")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write NAME.json with every number there")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="write NAME.png there")
    parser.add_argument("--quick", action="store_true", help="few seeds and steps: shows that it runs, not a result")
    options = parser.parse_args(arguments)
    console = Console()
    for name in [options.name] if options.name else REPRODUCTIONS:
        module, start = REPRODUCTIONS[name], time.perf_counter()
        found: Reproduction = module.run("quick" if options.quick else "full")
        seconds = time.perf_counter() - start
        show(found, seconds, console)
        data = found.to_dict()
        if options.json:
            write({"environment": environment(), "seconds": seconds, **data}, options.json / f"{name}.json")
        if options.figures:
            options.figures.mkdir(parents=True, exist_ok=True)
            module.draw(data["curves"]).savefig(options.figures / f"{name}.png")


if __name__ == "__main__":
    main()
