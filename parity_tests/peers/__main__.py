"""`python -m parity_tests.peers [LIBRARY...]`: run calls of installed libraries beside ours, and renew the table.

The libraries are no dependencies of the tests; `python -m pip install equinox flax dm-haiku opacus backpack-for-pytorch
curvlinops-for-pytorch polygraphy onnx-graphsurgeon` adds them. `optimum-onnx` asks for an older transformers, so it
goes into an environment of its own: `python -m parity_tests.peers optimum-onnx` keeps the other libraries' rows.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence
from itertools import groupby

from parity_tests.peers import jax_libraries, onnx_tools, torch_libraries
from parity_tests.peers.comparison import COMPARISONS
from parity_tests.sources import ROOT

__all__ = ["HEAD", "PAGE", "merged", "rows"]

PAGE = ROOT / "docs" / "coming-from.md"
HEAD = "| library | version | their calls, ours beside them | largest difference |\n|---|---|---|---|\n"
TABLE = re.compile(re.escape(HEAD) + r"((?:\| .*\n)*)")
FILES = (jax_libraries, torch_libraries, onnx_tools)
"""The files that hold the comparisons."""


def rows(packages: Sequence[str] = ()) -> dict[str, str]:
    """Run the comparisons with the packages, or with all that are installed; return a row of the table for each.

    Raises:
        AssertionError: if two results are further apart than the comparison's tolerance.
    """
    found = {}
    chosen = [row for row in COMPARISONS if (row.package in packages if packages else row.installed)]
    for package, group in groupby(chosen, key=lambda row: row.package):
        members = list(group)
        distances = []
        for row in members:
            distances.append(row.run())
            print(f"{package} {row.version}: {row.theirs} | {row.ours}: {distances[-1]:.1e}", flush=True)
            assert distances[-1] <= row.tolerance, row
        calls = "; ".join(f"`{row.theirs}`" + " (an estimate)" * row.estimate for row in members)
        largest = max(size for size, row in zip(distances, members, strict=True) if not row.estimate)
        found[package] = f"| {package} | {members[0].version} | {calls} | {f'{largest:.1e}' if largest else 'equal'} |"
    return found


def merged(page: str, new: dict[str, str]) -> str:
    """Return the page with new rows in its table; those of other libraries stay."""
    match = TABLE.search(page)
    assert match is not None, "the page holds the table's head"
    old = {line.split(" | ")[0].removeprefix("| "): line for line in match[1].splitlines()}
    both = old | new
    order = dict.fromkeys(row.package for row in COMPARISONS)
    return page[: match.start(1)] + "".join(f"{both[name]}\n" for name in order if name in both) + page[match.end(1) :]


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of the libraries: what they deprecate is not ours to say
    PAGE.write_text(merged(PAGE.read_text(encoding="utf-8"), rows(sys.argv[1:])), encoding="utf-8")
