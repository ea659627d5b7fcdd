"""The record of where CUDA would take the catalogue's nodes: one line a row as JSON, and a page of sums."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from export.runtime.environment import version_of
from parity_tests.cuda_placement_cases import DTYPES, SIZES, TRANSFORMS, Subject, subjects

__all__ = ["PAGE", "RECORD", "cell", "page", "record", "write"]

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "parity_tests" / "golden" / "cuda_placement.json"
PAGE = ROOT / "docs" / "CUDA_PLACEMENT.md"
PACKAGES = ("onnxruntime-gpu", "onnx", "torch")

HEADER = """# Where CUDA would run the catalogue

**Placement proved, numbers not measured.** Every file below was given to ONNX Runtime's own CUDA provider on a
stand-in for CUDA, whose calls succeed and compute nothing (`parity_tests/cuda_standin`). Which node the provider takes
is decided by its own code and is what it would be on a GPU; no time and no value here comes from one.

A node may be on the CPU only if its value depends on sizes alone, which is followed through the graph. "Data on the
CPU" counts the others. "Copies" are those that the graph has in every run. "One CUDA graph" counts the files that ONNX
Runtime accepts for it. Files are written by `to_onnx(..., target="cuda")`; "refused" were not written, by a typed
error. Each session on the stand-in is also a test of `export.devices.cuda_kernels`: for every node of a file that is
written, that table said beforehand that CUDA runs it, or that it computes sizes. Combinations that are not counted were
not tried. `python -m parity_tests.cuda_placement --write` renews this page and
`parity_tests/golden/cuda_placement.json`.
"""


def cell(found: Mapping[str, Any]) -> Any:
    """Return a file's entry: [on CUDA, sizes on the CPU, data on the CPU, copies to GPU, to host, one graph]."""
    if "refused" in found or "failed" in found:
        kind = found.get("refused") or f"failed: {found['failed']}"
        confirmed = {True: ", confirmed", False: ", NOT CONFIRMED"}.get(found.get("confirmed"), "")
        return " ".join(filter(None, (kind, found.get("op"), found.get("dtype")))) + confirmed
    numbers = [found["cuda"], sum(found["sizes"].values()), len(found["data"]), found["to_gpu"], found["to_host"]]
    return [*numbers, int(found["capturable"])]


def record(known: Mapping[Subject, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is committed: versions, and {row: {column: entry}} in the order of the catalogue."""
    rows: dict[str, dict[str, Any]] = {}
    operators = collections.Counter[str]()
    for one in subjects():
        if one in known:
            rows.setdefault(one.row, {})[one.key] = cell(known[one])
            operators.update(known[one].get("sizes", {}))
    versions = {name: version_of(name) for name in PACKAGES}
    return {"versions": versions, "sizes_on_the_cpu": dict(sorted(operators.items())), "rows": rows}


def page(known: Mapping[str, Any]) -> str:
    """Return the page of sums for a record."""
    every = len(list(subjects()))
    cells = [(key, found) for row in known["rows"].values() for key, found in row.items()]
    versions = ", ".join(f"{name} {version}" for name, version in known["versions"].items())
    placed = [found for _, found in cells if isinstance(found, list)]
    sums = [sum(column) for column in zip(*placed, strict=True)] or [0] * 6
    lines = [
        HEADER,
        f"With {versions}. {len(cells):,} of the {every:,} combinations were tried: "
        f"{sums[0]:,} nodes on CUDA, {sums[1]:,} on the CPU that compute sizes, {sums[2]:,} that compute on data.",
        "",
        "| dtype | transform | sizes | files | on CUDA | sizes on the CPU | data on the CPU | copies to the GPU "
        "| to the host | one CUDA graph | refused |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for dtype in DTYPES:
        for transform in TRANSFORMS:
            for sizes in SIZES:
                column = Subject("", transform, dtype, sizes).key
                lines += _row(dtype, transform, sizes, [found for key, found in cells if key == column])
    refused = collections.Counter(found for _, found in cells if not isinstance(found, list))
    if refused:
        lines += ["", "| refused or failed | files |", "|---|--:|"]
        lines += [f"| {what} | {count} |" for what, count in sorted(refused.items())]
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in known["sizes_on_the_cpu"].items())
    lines += ["", f"Operators of the nodes that compute sizes on the CPU: {kinds}."]
    return "\n".join(lines) + "\n"


def _row(dtype: str, transform: str, sizes: str, found: Iterable[Any]) -> list[str]:
    every = list(found)
    placed = [one for one in every if isinstance(one, list)]
    if not every:
        return []
    sums = [sum(column) for column in zip(*placed, strict=True)] or [0] * 6
    shown = " | ".join(f"{number:,}" for number in sums)
    return [f"| {dtype} | {transform} | {sizes} | {len(placed):,} | {shown} | {len(every) - len(placed)} |"]


def write(known: Mapping[Subject, Mapping[str, Any]]) -> None:
    """Write the record and its page."""
    made = record(known)
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in made["rows"].items())
    head = json.dumps({key: value for key, value in made.items() if key != "rows"})[:-1]
    RECORD.write_text(f'{head}, "rows": {{\n{rows}\n}}}}\n', encoding="utf-8")
    PAGE.write_text(page(made), encoding="utf-8")
