"""What was measured of each row of the catalogue (`checked.json` beside this file), and the same in words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # a record is read without PyTorch
    from pure.catalogue import Case

__all__ = ["findings", "fingerprint", "load"]

FILE: Final = "checked.json"


def load() -> dict[str, Any]:
    """Return the record: "environment", and by row its oracle, the difference from it and the verdicts on its file."""
    path = Path(__file__).parent / FILE
    if not path.exists():
        return {"environment": {}, "rows": {}}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def fingerprint(case: Case) -> str:
    """Return what changes when a row's block, example or oracle does, so that an old record is not shown for it."""
    parts = (case.call(), repr(case.make()), case.x_shape, case.control, case.extras, case.tokens, case.oracle)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def findings(measured: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """Return (what, status, what was found) for a row of the record; status is "" where there is no verdict.

    >>> findings({"difference": 2e-16, "float32": {"status": "pass", "ratio": 1.0}})[1]
    ('float32 file', 'pass', 'its largest error is 1 rounding scales')
    """
    if not measured:
        return [("oracle and files", "", "not recorded")]
    difference = measured.get("difference")
    said = "not recorded" if difference is None else "none" if difference == 0 else f"{difference:.1e}"
    found = [("largest relative difference from the oracle, float64", "", said)]
    for dtype in ("float32", "float16"):
        verdict = measured.get(dtype)
        if not verdict:
            found.append((f"{dtype} file", "", "not recorded"))
            continue
        ratio = verdict.get("ratio")
        error = "" if ratio is None else f"its largest error is {ratio:.3g} rounding scales"
        found.append((f"{dtype} file", str(verdict.get("status", "")), verdict.get("reason") or error))
    return found
