"""Every loss and indexing operator × every transform × fixed and dynamic sizes: `python -m parity_tests.loss_sweep`.

A cell is *right* where the file agrees with eager float64 at every size tried, *typed* where the export is refused with
this package's error, *eager* where PyTorch itself cannot do it, and otherwise *WRONG* or *UNTYPED*.
"""

from __future__ import annotations

import collections
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import export
from export.errors import ExportError
from parity_tests.failures import FAILURES
from parity_tests.loss_cases import ENSEMBLE, INPUTS, LABELS, LOSSES, MORE_LOSSES, WEIGHTS, Function, transformed

__all__ = ["Cell", "cells", "main"]

SIZES = (5, 2, 1)
RELATIVE_TOLERANCE = 3e-5
"""Of the largest element, for float32 against float64."""


@dataclass(frozen=True)
class Cell:
    """One export.

    Attributes:
        operator: the loss or indexing operator.
        transform: what is made of it.
        dynamic: whether the batch is dynamic.
        outcome: right, typed, eager, WRONG or UNTYPED.
        message: what an error says, or the largest relative error.
    """

    operator: str
    transform: str
    dynamic: bool
    outcome: str
    message: str = ""


def _args(size: int) -> tuple[Tensor, ...]:
    return WEIGHTS, ENSEMBLE, INPUTS[:size], LABELS[:size]


def _worst(found: Tensor, expected: Tensor) -> float:
    """Return the largest error as a share of the largest element; infinite where shapes or NaN differ."""
    if found.shape != expected.shape or not torch.equal(found.isnan(), expected.isnan()):
        return float("inf")
    scale = max(float(expected.abs().nan_to_num().max()), 1e-3)
    return float((found.double() - expected).nan_to_num(posinf=0, neginf=0).abs().max()) / scale


def _cell(operator: str, transform: str, fn: Function, dynamic: bool, folder: Path) -> Cell:
    expected = {}
    try:
        for size in SIZES if dynamic else SIZES[:1]:
            doubled = [arg.double() if arg.is_floating_point() else arg for arg in _args(size)]
            expected[size] = fn(*doubled)  # type: ignore[call-arg]
        fn(*_args(SIZES[0]))  # type: ignore[call-arg]
    except (RuntimeError, NotImplementedError, IndexError, ValueError) as error:
        return Cell(operator, transform, dynamic, "eager", str(error))
    batch = {0: "batch"}
    try:
        export.to_onnx(fn, _args(SIZES[0]), folder / "f.onnx", dynamic=(None, None, batch, batch) if dynamic else None)
        loaded = export.load(folder / "f.onnx", device="cpu")
        worst = max(_worst(loaded(*_args(size)), value) for size, value in expected.items())
    except ExportError as error:
        return Cell(operator, transform, dynamic, "typed", str(error))
    except FAILURES as error:
        return Cell(operator, transform, dynamic, "UNTYPED", f"{type(error).__name__}: {error}")
    return Cell(operator, transform, dynamic, "right" if worst <= RELATIVE_TOLERANCE else "WRONG", f"{worst:.1e}")


def cells(names: Sequence[str] = ()) -> Iterator[Cell]:
    """Yield the cells of the named operators, of all by default."""
    table = {**LOSSES, **MORE_LOSSES}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for operator in names or table:
            for transform, fn in transformed(table[operator]).items():
                for dynamic in (False, True):
                    yield _cell(operator, transform, fn, dynamic, Path(folder))


def main(arguments: Sequence[str]) -> int:
    """Print a table and the counts; return 1 if a cell is wrong or untyped."""
    found: list[Cell] = []
    transforms = list(transformed(LOSSES["nll"]))
    print(f"{'':36}" + "".join(f"{name:>20}" for name in transforms), "(fixed/dynamic)")
    for cell in cells(arguments):
        found.append(cell)
        if cell.transform == transforms[-1] and cell.dynamic:
            row = [one.outcome for one in found if one.operator == cell.operator]
            pairs = zip(row[::2], row[1::2], strict=True)
            print(f"{cell.operator:36}" + "".join(f"{'/'.join(pair):>20}" for pair in pairs), flush=True)
    for cell in found:
        if cell.outcome not in ("right", "eager"):
            size = "dynamic" if cell.dynamic else "fixed"
            print(f"{cell.outcome} {cell.operator}, {cell.transform}, {size}: {cell.message[:300]}")
    counts = collections.Counter(cell.outcome for cell in found)
    possible = len(found) - counts["eager"]
    print(f"{counts['right']} of {possible} right ({counts['right'] / max(possible, 1):.1%}); {dict(counts)}")
    return int(counts["WRONG"] + counts["UNTYPED"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
