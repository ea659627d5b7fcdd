"""One rank of the table: run by torchrun, it works on every row with the others, and rank 0 writes what was found."""

import argparse
import json
import warnings
from pathlib import Path

import torch.distributed as dist

from parity_tests.spmd import audits, measurements
from parity_tests.spmd.audits import AUDITS
from parity_tests.spmd.families import FAMILIES
from parity_tests.spmd.faults import FAULTS, outcome
from parity_tests.spmd.measurements import MEASUREMENTS
from parity_tests.spmd.transforms import CALLS, CONTROLS, TRANSFORMS, compare
from pure import spmd
from pure.errors import PureError

__all__ = ["main"]


def _agreed(value: float | str | None) -> float | str | None:
    """Return the worst that any rank has found."""
    found: list[float | str | None] = [None] * spmd.size()
    dist.all_gather_object(found, value)
    texts = [f"rank {rank}: {said}" for rank, said in enumerate(found) if isinstance(said, str) and said]
    if texts:
        return "; ".join(texts)
    numbers = [said for said in found if isinstance(said, float)]
    return max(numbers, default=None)


def main() -> None:
    """Work on all rows and write them, one JSON object a line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--calls", nargs="*", default=list(CALLS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
    dist.init_process_group("gloo")
    rows = []
    for family in FAMILIES:
        for call in options.calls:
            for transform in TRANSFORMS:
                try:
                    found = compare(FAMILIES[family], call, transform)
                except (PureError, RuntimeError, AssertionError) as error:
                    found = f"{type(error).__name__}: {error}"  # type: ignore[assignment]
                rows.append(
                    {"call": f"shard_map, {call}", "transform": transform, "family": family, "found": _agreed(found)}
                )
        for name in (*MEASUREMENTS, *AUDITS):
            try:
                found = (audits if name in AUDITS else measurements).compare(family, name)
            except (PureError, RuntimeError, AssertionError) as error:
                found = f"{type(error).__name__}: {error}"  # type: ignore[assignment]
            rows.append({"call": "flow", "transform": name, "family": family, "found": _agreed(found)})
    for fault in FAULTS if spmd.size() > 1 else ():
        rows.append({"fault": fault, "found": _agreed(outcome(fault))})
    for control in CONTROLS if spmd.size() in (2, 3) else ():
        rows.append({"control": control, "found": _agreed(CONTROLS[control]())})
    if spmd.rank() == 0:
        options.file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
