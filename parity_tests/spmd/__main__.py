"""The table of what several processes compute beside one: `python -m parity_tests.spmd` prints it.

python -m parity_tests.spmd                     # 1, 2, 3 and 4 gloo processes by torchrun
python -m parity_tests.spmd --counts 2 3        # some of these
python -m parity_tests.spmd --write             # renew docs/SPMD_PARITY.md
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from parity_tests.sources import ROOT
from parity_tests.spmd.launch import torchrun

__all__ = ["BOUND", "PAGE", "main", "measured", "page", "wrong"]

BOUND = 1e-12
"""The largest difference from one process, relative to the largest number of the result, in float64."""
PAGE = ROOT / "docs" / "SPMD_PARITY.md"

Row = dict[str, Any]


def measured(count: int, *arguments: str) -> list[Row]:
    """Return the rows that `count` processes found.

    Raises:
        RuntimeError: the processes did not come to the end.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        ended = torchrun(count, "parity_tests.spmd.worker", str(file), *arguments, timeout=1800)
        if ended.code != 0 or not file.exists():
            raise RuntimeError(f"{count} processes ended with {ended.code}:\n{ended.output}")
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def wrong(rows: list[Row]) -> list[Row]:
    """Return the rows that are not as they should be."""
    return [row for row in rows if _is_wrong(row)]


def _is_wrong(row: Row) -> bool:
    found = row["found"]
    if row.get("control"):
        return not isinstance(found, float) or found < 1e-6
    return isinstance(found, str) or (found is not None and not found <= BOUND)


def _cell(found: list[Any]) -> str:
    texts = [value for value in found if isinstance(value, str)]
    numbers = [value for value in found if isinstance(value, float)]
    if texts:
        return texts[0].splitlines()[0][:60]
    return f"{max(numbers):.0e}" if numbers else "–"


def page(results: dict[int, list[Row]]) -> str:
    """Return the table as Markdown: one row a call and transform, one column a family, the worst of all counts."""
    rows = [row for count in results for row in results[count] if "family" in row]
    families = list(dict.fromkeys(row["family"] for row in rows))
    places = list(dict.fromkeys((row["call"], row["transform"]) for row in rows))
    found: dict[tuple[str, str, str], list[Any]] = {}
    for row in rows:
        found.setdefault((row["call"], row["transform"], row["family"]), []).append(row["found"])
    counts = ", ".join(map(str, results))
    lines = [
        "# Several processes beside one",
        "",
        f"`python -m parity_tests.spmd --write` writes this page: gloo on {counts} processes by torchrun, float64, 7",
        "samples, so that the parts are uneven. A cell is the largest difference from one process relative to the",
        "largest number of the result, over all counts of processes and all ranks; “–” has no meaning: for parameters",
        "that are held in parts, or where one process refuses it as well.",
        f"Anything above {BOUND:.0e} or any error fails the command.",
        "",
        "| call | transform or measurement | " + " | ".join(families) + " |",
        "|---|---|" + "---|" * len(families),
    ]
    for call, transform in places:
        cells = [_cell(found.get((call, transform, family), [])) for family in families]
        lines.append(f"| {call} | {transform} | " + " | ".join(cells) + " |")
    faults = list(dict.fromkeys(row["fault"] for count in results for row in results[count] if "fault" in row))
    lines += ["", "Mistakes, each a typed error on every rank after which the next call is right:", ""]
    for fault in faults:
        said = [
            row["found"] for count in results for row in results[count] if row.get("fault") == fault and row["found"]
        ]
        lines.append(f"- {fault}{': ' + str(said[0]) if said else ''}")
    controls = [row for count in results for row in results[count] if "control" in row]
    if controls:
        lines += ["", "What the table would show if a collective were missing:", ""]
        for name in dict.fromkeys(row["control"] for row in controls):
            smallest = min(row["found"] for row in controls if row["control"] == name)
            lines.append(f"- {name}: {smallest:.0e} at least")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print and return how many rows are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="*", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--calls", nargs="*", default=[])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    results = {
        count: measured(count, *(["--calls", *options.calls] if options.calls else [])) for count in options.counts
    }
    text = page(results)
    print(text)
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
    faulty = [(count, row) for count in results for row in wrong(results[count])]
    for count, row in faulty:
        print(f"WRONG on {count} processes: {row}")
    print(f"{sum(map(len, results.values()))} rows, {len(faulty)} wrong")
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
