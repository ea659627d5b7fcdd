"""`python -m benchmarks.cuda_catalogue DEVICE SECONDS [ROW…]`: one line of JSON a row of the catalogue, as it goes."""

import json
import sys
import time
from typing import Any

import export
from export.app import catalogue_examples
from export.errors import ExportError
from parity_tests.cuda_checks import placed
from pure import catalogue


def judged(case: catalogue.Case, device: str) -> dict[str, Any]:
    """The verdict on a row, at every batch size, with its tensors on the device."""
    ready = catalogue_examples.call(case)
    try:
        verdict = export.verify(ready.fn, placed(ready.args, device), dynamic=ready.dynamic, device=device)
    except ExportError as error:
        return {"status": "refused", "error": f"{type(error).__name__}: {error}"[:600]}
    found: dict[str, Any] = {"status": verdict.status, "worst_ratio": verdict.worst, "seconds": verdict.seconds}
    return found if verdict.passed else {**found, "table": verdict.table()[:1500]}


def main() -> None:
    """Judge rows until the time is over."""
    device, seconds, *only = sys.argv[1:]
    end = time.monotonic() + float(seconds)
    for case in catalogue.CASES:
        if only and case.name not in only:
            continue
        if time.monotonic() > end:
            break
        try:
            found = judged(case, device)
        except (RuntimeError, TypeError, ValueError) as error:  # such as an eager call that mixes devices
            found = {"status": "failed", "error": f"{type(error).__name__}: {error}"[:600]}
        print(json.dumps({"name": case.name, **found}), flush=True)


if __name__ == "__main__":
    main()
