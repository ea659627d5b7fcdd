"""How the command line prints verdicts and diagnoses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.text import Text

from export.app.console import status, stdout, table
from export.errors import ExportError

if TYPE_CHECKING:  # a command that prints one has loaded it
    from export.runtime.doctor import Diagnosis
    from export.verdict.verdict_result import Verdict
    from pure.flow import Audit

__all__ = ["audit", "catalogue", "diagnosis", "plain_verdict", "verdicts"]


MIN_WIDTH_FOR_ORACLE, MIN_WIDTH_FOR_FAMILY, MIN_WIDTH_FOR_RATIOS = 150, 100, 72
"""A terminal of fewer columns than these leaves out what matters less."""


def catalogue(rows: list[dict[str, Any]]) -> None:
    """Print the rows of the catalogue with what was checked of each, as many columns as the terminal has room for."""

    def judged(checked: dict[str, Any], dtype: str) -> str | Text:
        found = checked.get(dtype)
        if found is None:
            return "-"
        return f"{found['ratio']:.2g}" if found["status"] == "pass" else Text(found["status"], style="yellow")

    width = stdout().width
    columns = ["name", "family", "formula", "extras", "parameters", "oracle", "difference", "float32", "float16"]
    if width < MIN_WIDTH_FOR_ORACLE:
        columns.remove("oracle")
    if width < MIN_WIDTH_FOR_FAMILY:
        wider = ["extras", "difference", "float32"] if width >= MIN_WIDTH_FOR_RATIOS else []
        columns = ["name", "formula", *wider]
    lines: list[list[str | Text]] = []
    for row in rows:
        checked = row.get("checked", {})
        shown: dict[str, str | Text] = {
            **{key: row[key] for key in ("name", "family", "formula")},
            "extras": ", ".join(row["extras"]),
            "parameters": f"{row['parameters']:,}",
            "oracle": checked.get("oracle", "-"),
            "difference": f"{checked['difference']:.1g}" if checked else Text("not recorded", style="yellow"),
            **{dtype: judged(checked, dtype) for dtype in ("float32", "float16")},
        }
        lines.append([shown[column] for column in columns])
    table(columns, lines, right=["parameters", "difference", "float32", "float16"])
    total = sum("checked" in row for row in rows)
    stdout().print(
        f"\n{total} of {len(rows)} rows recorded. difference: the largest from the oracle, relative, in float64. "
        "float32, float16: the exported file's largest error, in units of the number's own rounding scale, at most 8.\n"
        "pure-export list --family gated shows one family, pure-export verify NAME measures again, and pure-export "
        "reference writes a page with a diagram, the leaves and the call of each."
    )


def plain_verdict(verdict: Verdict | ExportError) -> dict[str, Any]:
    """Return a verdict, or the error in its place, as plain data."""
    if isinstance(verdict, ExportError):
        return {"status": "error", "error": {"type": type(verdict).__name__, "message": str(verdict)}}
    return verdict.to_dict()


def verdicts(judged: dict[str, Verdict | ExportError], full: bool) -> None:
    """Print a line for each verdict, and the whole of it if it failed or everything was asked for."""
    rows: list[list[str | Text]] = []
    long: list[str] = []
    for name, verdict in judged.items():
        if isinstance(verdict, ExportError):
            rows.append([name, status("error"), "-", "-", "-", "-"])
            long.append(f"{name}: {type(verdict).__name__}: {verdict}")
            continue
        limits = sorted({f"{row.limit:g}" for row in verdict.rows})
        counted = str(len(verdict.rows))
        rows.append([name, status(verdict.status), f"{verdict.worst:.3g}", ", ".join(limits), counted, verdict.device])
        if full or not verdict.passed:
            long.append(verdict.table(full=full))
    table(["name", "verdict", "ratio", "limit", "comparisons", "device"], rows, right=["ratio", "limit", "comparisons"])
    for text in long:
        stdout().print(f"\n{text}", soft_wrap=True)


MAX_AUDIT_ROWS = 24
"""Blocks of an audit that are shown unless all are asked for."""


def audit(name: str, about: str, found: Audit, full: bool) -> None:
    """Print an audit: its table, how fast signal and gradient grow, and the advice with its numbers."""
    count = len(found)
    loss = "" if math.isnan(found.loss) else f" {found.loss:.4g}"
    stdout().print(f"{name}: {count} block{'s' * (count != 1)}, {about}{loss}\n", soft_wrap=True)
    head, rows = (lines := found.table().splitlines())[:2], lines[2:]
    if not full and count > MAX_AUDIT_ROWS:
        rows = [rows[round(at * (count - 1) / (MAX_AUDIT_ROWS - 1))] for at in range(MAX_AUDIT_ROWS)]
    stdout().print("\n".join([*head, *rows]), soft_wrap=True)
    if len(rows) < count:
        stdout().print(f"{len(rows)} of {count} blocks; --full shows all of them")
    for of in ("paths", "deletions", "pairs") if full else ():
        if getattr(found, of):
            stdout().print(f"\n{found.table(of)}", soft_wrap=True)
    stdout().print()
    for what, grown in (
        ("mean square of the stream", found.stream_growth),
        ("square of the gradient, towards the input", found.gradient_growth),
    ):
        if grown is not None:
            stdout().print(f"{what}: {grown}", soft_wrap=True)
    if not found.advice:
        stdout().print(found.table("advice"), soft_wrap=True)
    for advice in found.advice:
        stdout().print(Text.assemble((f"{advice.rule}: ", "yellow"), advice.text), soft_wrap=True)
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in advice.numbers.items())
        stdout().print(f"  from {advice.evidence}: {numbers}", soft_wrap=True)


def diagnosis(found: Diagnosis) -> None:
    """Print what the doctor found."""
    system = found.system
    stdout().print(
        f"Python {system['python']} on {system['platform']}, {system['processor']}, {system['cores']} cores\n"
    )
    rows: list[list[str | Text]] = [
        [p.name, p.version or "-", p.problem or Text("ok", style="green")] for p in found.packages
    ]
    table(["package", "version", ""], rows)
    stdout().print()
    rows = [[p.name, "yes" if p.loads else "no", p.problem] for p in found.providers]
    table(["provider compiled in", "loads", "why not"], rows)
    if found.libraries:
        stdout().print()
        rows = [[library.name, library.path or Text("not found", style="yellow")] for library in found.libraries]
        table(["library for CUDA", "where"], rows)
    stdout().print(f"\nPyTorch and CUDA: {found.torch_cuda}\ndevice='auto' is {found.auto}", soft_wrap=True)
    if found.builds:
        own, theirs, cudnn = (found.builds[name] or "none" for name in ("onnxruntime", "torch", "cudnn"))
        stdout().print(f"built for: ONNX Runtime CUDA {own}; PyTorch CUDA {theirs}, cuDNN {cudnn}", soft_wrap=True)
        if found.builds["mismatch"]:
            stdout().print(Text(found.builds["mismatch"], style="yellow"), soft_wrap=True)
    for fix in found.fixes:
        stdout().print(f"to install: {fix}", soft_wrap=True)
    if not found.healthy:
        stdout().print(Text("something that everything needs is missing", style="bold red"))
