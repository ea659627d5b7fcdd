"""The zoo's outcomes as lines, counts and a page."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.text import Text

from parity_tests.zoo.checks import FILES, FIXED_LENGTH, STAGES

__all__ = ["UNTOLD", "line", "markdown", "summary"]

UNTOLD = ("wrong", "untyped", "crashed", "hanging")
"""What no stage of ours may come to: a wrong value that nothing tells, an error without a type, no end."""
JUDGED = ("right", "wrong", "told", "open")
"""What a stage comes to that wrote a file, which could be judged."""
SHORT = {"right": "✓", "typed": "typed", "told": "told", "open": "open", "none": "–"}
LEGEND = (
    "✓: the value is right, and so is the file's verdict where it got one. typed: an error of its own type that names "
    "the cause. told: the verdict failed. open: right, but for picks that rounding leaves open, which are named. "
    "hanging: not done in its time. crashed: the process ended, as for want of memory. held out: a model that was left "
    "alone while faults were mended."
)
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "timm", "torchvision", "transformers")
MORE_PACKAGES = ("pytorchcv", "x-transformers")

Record = dict[str, Any]


def line(record: Record) -> str:
    """Return a model's outcome as a line, with what is not right below it."""
    stages = record["stages"]
    head = f"{record['library']}:{record['name']}: " + ", ".join(
        f"{name} {stage['status']} {stage['seconds']:.1f} s" for name, stage in stages.items()
    )
    return "\n".join(
        [head, *(f"    {name}: {stage['detail']}" for name, stage in stages.items() if stage["status"] != "right")]
    )


def versions() -> str:
    """Return the packages' versions."""
    found = []
    for package in (*PACKAGES, *MORE_PACKAGES):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def rate(records: Sequence[Record], stage: str) -> str:
    """Return how many models are right in a stage, of those that came to it."""
    outcomes = [record["stages"][stage]["status"] for record in records if stage in record["stages"]]
    right = outcomes.count("right")
    return f"{right} of {len(outcomes)} ({right / max(1, len(outcomes)):.1%})"


def ratio(records: Sequence[Record], what: str) -> str:
    """Return the median and quartiles of ours against torch.onnx's, where both files are right."""
    pairs = [
        (record["stages"]["forward file"][what], record["stages"]["torch.onnx"][what])
        for record in records
        if all(record["stages"].get(stage, {}).get("status") == "right" for stage in ("forward file", "torch.onnx"))
    ]
    ratios = sorted(ours / theirs for ours, theirs in pairs if theirs)
    if len(ratios) < 4:
        return "too few to say"
    low, median, high = statistics.quantiles(ratios, n=4)
    return f"{median:.2f} ({low:.2f} to {high:.2f}, {len(ratios)} models)"


def summary(records: Sequence[Record]) -> str:
    """Return the counts of each stage, by library, and the ratios."""
    lines = [
        versions(),
        f"{len(records)} models of {len({record['architecture'] for record in records})} architectures",
    ]
    libraries = [*dict.fromkeys(record["library"] for record in records)]
    for stage in STAGES:
        counts = Counter(record["stages"][stage]["status"] for record in records if stage in record["stages"])
        others = ", ".join(f"{count} {status}" for status, count in counts.items() if status != "right")
        found = [record["stages"][stage] for record in records if stage in record["stages"]]
        fixed = sum(one["status"] == "right" and one["open_sizes"] == FIXED_LENGTH for one in found)
        others += f", {fixed} of the right ones at a fixed length of texts" if fixed else ""
        each = "; ".join(f"{name} {rate(_of(records, name), stage)}" for name in libraries)
        lines.append(f"{stage}: {rate(records, stage)} right{f', {others}' if others else ''} [{each}]")
    for stage in FILES:
        asked = [record["stages"].get(stage, {}) for record in records if stage in record["verdicts"]]
        lines.append(f"{stage}: {sum(one.get('status') in JUDGED for one in asked)} got a verdict")
    lines.append(f"CPU time of an export, ours / torch.onnx's: {ratio(records, 'seconds')}")
    lines.append(f"nodes, ours / torch.onnx's: {ratio(records, 'nodes')}")
    return "\n".join(lines)


def _of(records: Sequence[Record], library: str) -> list[Record]:
    return [record for record in records if record["library"] == library]


def markdown(records: Sequence[Record]) -> str:
    """Return the page: counts, then a table of all models, then what is not right and why."""
    ordered = sorted(records, key=lambda record: (record["library"], record["architecture"], record["name"]))
    lines = ["# Models that other people wrote", "", "Written by `python -m parity_tests.zoo`; what it checks of each:"]
    lines += ["", *(f"- **{name}**: {_said(check)}" for name, check in STAGES.items()), "", LEGEND, ""]
    lines += [f"{part}  " for part in summary(ordered).splitlines()]
    lines += [
        "",
        "| model | architecture | " + " | ".join(STAGES) + " | CPU s, ours / torch.onnx | nodes |",
        "|---" * (len(STAGES) + 4) + "|",
    ]
    for record in ordered:
        stages = record["stages"]
        cells = [
            SHORT.get(stages.get(name, {}).get("status", "none"), stages.get(name, {}).get("status")) for name in STAGES
        ]
        ours, theirs = stages.get("forward file", {}), stages.get("torch.onnx", {})
        times = f"{ours.get('seconds', 0):.1f} / {theirs.get('seconds', 0):.1f}"
        nodes = " / ".join(str(one.get("nodes") or "–") for one in (ours, theirs))
        held = " (held out)" if record["held_out"] else ""
        lines.append(
            f"| {record['library']}:{record['name']}{held} | {record['architecture']} | "
            + " | ".join(cells)
            + f" | {times} | {nodes} |"
        )
    lines += ["", "## What is not right", ""]
    for record in ordered:
        for name, stage in record["stages"].items():
            if stage["status"] not in ("right", "none"):
                lines.append(f"- {record['library']}:{record['name']}, {name}: {stage['status']}. {_one_line(stage)}")
    return "\n".join(lines) + "\n"


def _said(check: Any) -> str:
    text = " ".join((check.__doc__ or "").split())
    return text[:1].lower() + text[1:]


def _one_line(stage: dict[str, Any]) -> str:
    return " ".join(Text.from_ansi(stage["detail"]).plain.split()).replace("|", "\\|")[:300]
