"""Prints one table of every law and identity of gradient-flow theory: `python -m parity_tests.theory_check`.

Each line has what was predicted, what was measured with its 95% interval, z for laws that are exact at finite width and
the relative error for limits, and the verdict. Exits 1 if a law disagrees, or a negative control is not rejected.
"""

from __future__ import annotations

import sys
import time
import warnings

import torch

from parity_tests import theory_laws
from parity_tests.theory_identities import identities
from parity_tests.theory_rows import Row, text


def rows() -> list[Row]:
    found = identities()
    for section in (
        theory_laws.exact,
        theory_laws.spectra,
        theory_laws.correlations,
        theory_laws.norms,
        theory_laws.gates,
        theory_laws.controls,
    ):
        found += section()
    return found


def main() -> int:
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")  # PyTorch's own, on its first jvp
    torch.set_num_threads(1)  # many small products: a second thread costs more than it brings
    start, used = time.perf_counter(), time.process_time()
    found = rows()
    print(text(found))
    spent = f"{time.perf_counter() - start:.0f} s, {time.process_time() - used:.0f} s of processor time"
    print(f"{spent}, one thread")
    return int(not all(row.passed for row in found))


if __name__ == "__main__":
    sys.exit(main())
