"""Verdicts as a JUnit XML report: a suite for each file, a test case for each comparison."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

from export.errors import ExportError, WriteError
from pure_export_shared import replacing

if TYPE_CHECKING:  # a command that writes a report has loaded it
    from export.verdict.verdict_result import Row, Verdict

__all__ = ["write"]

FORBIDDEN = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML file may hold."""


def write(path: Path, judged: dict[str, Verdict | ExportError]) -> None:
    """Write verdicts, and errors in the place of some, as a report; it appears whole or not at all.

    Raises:
        WriteError: the file cannot be written.
    """
    root = ET.Element("testsuites", name="pure-export verify")
    for name, verdict in judged.items():
        root.append(_error(name, verdict) if isinstance(verdict, ExportError) else _suite(name, verdict))
    for count in ("tests", "failures", "errors"):  # the schema has no count of what was skipped here
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    root.set("time", f"{sum(float(suite.get('time', '0')) for suite in root):.3f}")
    ET.indent(root)
    with replacing(path, WriteError) as file:
        ET.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)


def _suite(name: str, verdict: Verdict) -> ET.Element:
    states = [_outcome(row) for row in verdict.rows]
    predicates = [f"If at {predicate.source or '?'}" for predicate in verdict.predicates]
    bad = [p for p in verdict.predicates if p.status != "pass"]
    suite = _element(
        name, len(states) + len(predicates), states.count("failure") + len(bad), 0, states.count("skipped")
    )
    suite.set("time", f"{verdict.seconds:.3f}")
    table = verdict.table()
    for row, state in zip(verdict.rows, states, strict=True):
        case = ET.SubElement(suite, "testcase", classname=_text(name), name=_text(f"{row.leaf} [{row.case}]"), time="0")
        if state == "failure":
            problem = ET.SubElement(case, "failure", type=row.status, message=_text(_reason(row)))
            problem.text = _text(table)
        elif state == "skipped":
            ET.SubElement(case, "skipped", message=_text(row.reason))
    for label, predicate in zip(predicates, verdict.predicates, strict=True):
        case = ET.SubElement(suite, "testcase", classname=_text(name), name=_text(label), time="0")
        if predicate.status != "pass":
            problem = ET.SubElement(case, "failure", type=predicate.status, message="the file takes the other branch")
            problem.text = _text(table)
    output = ET.SubElement(suite, "system-out")
    output.text = _text(verdict.table(full=True))
    return suite


def _outcome(row: Row) -> str:
    if row.status == "skipped":
        return "skipped"
    return "" if row.status == "pass" else "failure"


def _reason(row: Row) -> str:
    return row.reason or f"ratio {row.ratio:.3g} above {row.limit:g}" if row.ratio is not None else row.reason


def _error(name: str, error: ExportError) -> ET.Element:
    suite = _element(name, 1, 0, 1, 0)
    case = ET.SubElement(suite, "testcase", classname=_text(name), name="verdict", time="0")
    problem = ET.SubElement(case, "error", type=type(error).__name__, message=_text(str(error).partition("\n")[0]))
    problem.text = _text(str(error))
    return suite


def _element(name: str, tests: int, failures: int, errors: int, skipped: int) -> ET.Element:
    counts = {"tests": tests, "failures": failures, "errors": errors, "skipped": skipped}
    plain = {key: str(value) for key, value in counts.items()}
    return ET.Element("testsuite", {"name": _text(name), "time": "0", **plain})


def _text(text: str) -> str:
    return FORBIDDEN.sub("?", text)
