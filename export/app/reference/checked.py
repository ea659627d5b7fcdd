"""What was measured of each row of the catalogue: ``checked.json`` beside this file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pure.catalogue import Case

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
