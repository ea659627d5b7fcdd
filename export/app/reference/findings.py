"""What was measured of a row, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def findings(measured: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """Return (what, status, what was found) for a row of the record; status is "" where there is no verdict.

    >>> findings({"difference": 2e-16, "float32": {"status": "pass", "ratio": 1.0}})[1]
    ('float32 file', 'pass', 'its error is 1 × that of eager float32')
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
        error = "" if ratio is None else f"its error is {ratio:.3g} × that of eager {dtype}"
        found.append((f"{dtype} file", str(verdict.get("status", "")), verdict.get("reason") or error))
    return found
