"""PyTorch's own operator samples, forward and gradient: `python -m parity_tests.opinfo_sweep [--samples N] [NAME …]`.

A sample is *right* where the file agrees with eager float64 or with eager float32's own rounding, *typed* where the
export is refused with this package's error, *n/a* where eager fails or returns nothing to compare, and otherwise
*WRONG* or *UNTYPED*. PyTorch's table of samples needs the package `expecttest`.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import export
from export.errors import ExportError
from parity_tests.failures import FAILURES
from pure.tree import leaves, tree_flatten, tree_unflatten

__all__ = ["Cell", "cells", "main", "operators"]

RELATIVE_TOLERANCE = 1e-4
"""Of the largest element; float32 against float64."""

LOW_PRECISION = {"half": 2.0**-8, "chalf": 2.0**-8, "bfloat16": 2.0**-5}
"""The tolerance of operators that cast to a lower precision; ONNX Runtime may keep more digits in between."""

MAX_ELEMENTS = 20_000
"""Elements of a sample's tensors up to which it is tried."""


@dataclass(frozen=True)
class Cell:
    """One sample.

    Attributes:
        operator: PyTorch's name of the operator.
        number: which of its samples.
        kind: forward or gradient.
        outcome: right, typed, n/a, WRONG or UNTYPED.
        message: what an error says, or the error of what is wrong.
    """

    operator: str
    number: int
    kind: str
    outcome: str
    message: str = ""


def operators() -> list[Any]:
    """Return PyTorch's operator samples.

    Raises:
        SystemExit: if a package is missing that PyTorch's own tests need.
    """
    try:
        from torch.testing._internal.common_methods_invocations import op_db  # deferred: seconds, and needs expecttest
    except ModuleNotFoundError as error:
        raise SystemExit(f"PyTorch's operator samples need {error.name}: pip install {error.name}") from error
    return list(op_db)


def _doubled(x: Tensor) -> Tensor:
    return x.double() if x.dtype == torch.float32 else x.to(torch.complex128) if x.dtype == torch.complex64 else x


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in leaves(tree) if isinstance(x, Tensor)]


def _function(op: Any, sample: Any) -> tuple[Callable[..., Any], list[Tensor]]:
    """Return the operator as a function of the sample's tensors, and those."""
    flat, structure = tree_flatten((sample.input, sample.args, sample.kwargs))
    places = [i for i, item in enumerate(flat) if isinstance(item, Tensor)]

    def fn(*tensors: Tensor) -> Any:
        given = list(flat)
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        first, args, kwargs = tree_unflatten(given, structure)
        found = _tensors(op(first, *args, **kwargs))
        if any(x.layout != torch.strided for x in found):
            raise NotImplementedError("a sparse result")
        return tuple(torch.view_as_real(x) if x.is_complex() else x for x in found)

    return fn, [flat[place].detach() for place in places]


def _gradient(fn: Callable[..., Any], inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Return the gradient of a sum of the function's results w.r.t. its floating-point inputs."""

    def loss(*tensors: Tensor) -> Tensor:
        floats = [x for x in fn(*tensors) if x.is_floating_point()]
        return torch.stack([x.sin().sum() for x in floats]).sum()

    places = tuple(i for i, x in enumerate(inputs) if x.is_floating_point())
    return torch.func.grad(loss, argnums=places)


def _worst(found: Sequence[Tensor], expected: Sequence[Tensor], eager: Sequence[Tensor]) -> float:
    """Return the largest error relative to the largest element, less four times eager's own."""
    if len(found) != len(eager):
        return float("inf")
    worst = 0.0
    for a, b, own in zip(found, expected, eager, strict=True):
        if a.shape != b.shape or a.dtype != own.dtype:
            return float("inf")
        if not a.is_floating_point():
            worst = float("inf") if (a.ne(own) & a.ne(b.to(a.dtype))).any() else worst
            continue
        if not torch.equal(a.isnan(), own.isnan()) or not torch.equal(a.isinf(), own.isinf()):
            return float("inf")
        clean = (b.isfinite() & own.isfinite()) if b.is_floating_point() else own.isfinite()
        if not clean.any():
            continue
        scale = max(float(b[clean].abs().max()), 1e-3)
        slack = 4 * float((own.double() - b)[clean].abs().max())
        worst = max(worst, (float((a.double() - b)[clean].abs().max()) - slack) / scale)
    return worst


def _cell(name: str, number: int, kind: str, fn: Callable[..., Any], inputs: list[Tensor], folder: Path) -> Cell:
    try:
        eager = _tensors(fn(*(x.clone() for x in inputs)))
        expected = _tensors(fn(*(_doubled(x) for x in inputs)))
        again = _tensors(fn(*(x.clone() for x in inputs)))
    except FAILURES as error:
        return Cell(name, number, kind, "n/a", f"{type(error).__name__}: {error}")
    if not eager or any(not torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(eager, again, strict=True)):
        return Cell(name, number, kind, "n/a", "nothing to compare, or random numbers")
    try:
        export.to_onnx(fn, tuple(inputs), folder / "f.onnx")
        loaded = export.load(folder / "f.onnx", device="cpu")
        found = [torch.as_tensor(x) for x in leaves(loaded(*inputs))]
    except ExportError as error:
        return Cell(name, number, kind, "typed", str(error))
    except FAILURES as error:
        return Cell(name, number, kind, "UNTYPED", f"{type(error).__name__}: {error}")
    worst = _worst(found, expected, eager)
    return Cell(
        name, number, kind, "right" if worst <= LOW_PRECISION.get(name, RELATIVE_TOLERANCE) else "WRONG", f"{worst:.1e}"
    )


def cells(names: Sequence[str] = (), samples: int = 2) -> Iterator[Cell]:
    """Yield forward and gradient of the first samples of the named operators, of all by default."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for op in operators():
            name = op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")
            if (names and name not in names) or not op.supports_dtype(torch.float32, "cpu"):
                continue
            torch.manual_seed(0)
            drawn = op.sample_inputs("cpu", torch.float32, requires_grad=False)
            for number, sample in zip(range(samples), drawn, strict=False):
                fn, inputs = _function(op.op, sample)
                if sum(x.numel() for x in inputs) > MAX_ELEMENTS:
                    continue
                yield _cell(name, number, "forward", fn, inputs, Path(folder))
                if op.supports_autograd and any(x.is_floating_point() for x in inputs):
                    yield _cell(name, number, "gradient", _gradient(fn, inputs), inputs, Path(folder))


def main(arguments: Sequence[str]) -> int:
    """Print what is not right, and the counts; return 1 if a sample is wrong or untyped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2, help="samples an operator")
    parser.add_argument("names", nargs="*", help="operators; all by default")
    options = parser.parse_args(arguments)
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for cell in cells(options.names, options.samples):
        counts[cell.kind][cell.outcome] += 1
        if cell.outcome not in ("right", "n/a"):
            print(f"{cell.outcome} {cell.operator}[{cell.number}] {cell.kind}: {cell.message[:250]!r}", flush=True)
    for kind, found in counts.items():
        print(f"{kind}: {found['right']} of {found.total() - found['n/a']} right; {dict(found)}")
    return int(any(found["WRONG"] + found["UNTYPED"] for found in counts.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
