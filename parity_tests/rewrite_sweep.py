"""What ONNX Runtime's graph rewrites change: `python -m parity_tests.rewrite_sweep [NAME …]`.

The functions of the operator table (value, gradient and forward derivative, with a dynamic batch and with a fixed one),
the pools behind a Pad and the complex functions are exported once and run at every optimisation level of ONNX Runtime.
Where a level differs from the unoptimised graph by more than rounding, or does not load, that is a finding.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from torch import Tensor
from torch.func import grad

import export
from export.errors import ExportError
from parity_tests import test_export_complex_numbers, test_export_pools
from parity_tests.failures import FAILURES
from parity_tests.test_export_op_transforms import CASES, MODES, REFUSED, batched, dynamic, every_use

__all__ = ["compared", "main", "subjects"]

LEVELS = ("BASIC", "EXTENDED", "ALL")
"""ONNX Runtime's levels above none."""

RELATIVE_TOLERANCE = 1e-4
"""Of the largest element, between two orders of adding in float32."""

Subject = tuple[str, Callable[..., Any], tuple[Tensor, ...], tuple[Any, ...] | None]


def _judged(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda x: (f(x), grad(lambda x: f(x).square().sum())(x))


def subjects() -> Iterator[Subject]:
    """Yield name, function, arguments and dynamic axes."""
    for name, (op, args) in CASES.items():
        for mode in MODES:
            if mode not in REFUSED.get(name, ((), ""))[0]:
                given = tuple(args)
                f = every_use(op, (mode,), batched(given))
                yield f"{name}, {mode}, fixed", f, given, None
                yield f"{name}, {mode}, dynamic", f, given, dynamic(given)
    for name, pool in test_export_pools.POOLS.items():
        yield f"rounding up: {name}", _judged(pool), (test_export_pools.image(2, 3, 5, 5),), None
    for name, padded in test_export_pools.PADDED.items():
        x = test_export_pools.image(2, 4, 9, 9) - 3
        yield f"padded: {name}", _judged(padded), (x,), ({0: "batch"},)
    for name, f in test_export_complex_numbers.FUNCTIONS.items():
        yield f"complex: {name}", _judged(f), (test_export_complex_numbers.inputs(2, 6, 8),), None


def _run(path: Path, level: str, feed: dict[str, Any]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    found: list[Any] = session.run(None, {name: value for name, value in feed.items() if name in names})
    return found


def compared(plain: Sequence[Any], rewritten: Sequence[Any]) -> str:
    """Return how two runs differ beyond rounding, an empty text if they do not."""
    for a, b in zip(plain, rewritten, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{b.dtype}{list(b.shape)} instead of {a.dtype}{list(a.shape)}"
        if a.dtype.kind != "f":
            if not np.array_equal(a, b):
                return f"{int((a != b).sum())} of {a.size} whole numbers differ"
            continue
        if not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return "other places are not finite"
        clean = np.isfinite(a)
        scale = max(float(np.abs(a[clean]).max(initial=0)), 1e-3)
        error = float(np.abs(a[clean] - b[clean]).max(initial=0)) / scale
        if error > RELATIVE_TOLERANCE:
            return f"differs by {error:.1e} of the largest element"
    return ""


def main(arguments: Sequence[str]) -> int:
    """Print every finding and the counts; return 1 if there is a finding."""
    tried = refused = 0
    findings: list[str] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "f.onnx"
        for name, f, args, axes in subjects():
            if arguments and not any(text in name for text in arguments):
                continue
            try:
                exported = export.to_onnx(f, args, path, dynamic=axes)
            except (ExportError, *FAILURES):  # eager's own refusals among them
                refused += 1
                continue
            tried += 1
            feed = dict(zip(exported.inputs, (x.numpy() for x in args), strict=True))
            try:
                plain = _run(path, "DISABLE_ALL", feed)
            except FAILURES as error:
                findings.append(f"{name}, not optimised: {str(error)[:200]}")
                continue
            for level in LEVELS:
                try:
                    found = compared(plain, _run(path, f"ENABLE_{level}", feed))
                except FAILURES as error:
                    found = str(error)[:200]
                if found:
                    findings.append(f"{name}, {level.lower()}: {found}")
    for finding in findings:
        print(finding)
    print(f"{tried} graphs at {len(LEVELS)} levels against none: {len(findings)} findings ({refused} not exported)")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
