"""`verify`: does a file compute what the eager function computes?

The reference is float64 and the rounding scale is eager's own error. For an output leaf, T is the eager function in
float64 and the ratio is RMSE(file - T) / rounding scale, where the rounding scale is RMSE(eager - T) over several
slightly varied inputs, never below a floor of `error_ratio.FLOOR_ULP` ULP of the leaf's root mean square. A leaf that
is float64 itself has no better reference; its rounding scale is the float32 function's error times 2⁻²⁹, which is what
the same roundings cost in float64. Fixed tolerances are used nowhere.

Where the function decides by value, as a derivative of relu or max pooling does, an operand within rounding of the jump
leaves either side open. A file is judged on the side that it took (`export.verdict.kinks`), and the verdict lists these
in `verdict.kinks`; at a clear margin the other side is an error. `export.verdict.elementary_errors` says how ONNX
Runtime's tanh and logistic function, which are coarser than PyTorch's, count towards the rounding scale.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from export.graph.onnx_export import to_onnx
from export.verdict.error_ratio import FLOOR_ULP
from export.verdict.judge import Judge
from export.verdict.localisation import localise
from export.verdict.paired_runs import PairedRuns
from export.verdict.reference_runs import float32_products
from export.verdict.verdict_result import Divergence, Verdict

__all__ = ["verify"]


def verify(
    fn: Callable[..., Any],
    args: Sequence[Any],
    path: str | os.PathLike[str] | None = None,
    *,
    against: Callable[..., Any] | None = None,
    dynamic: Sequence[Any] | None = None,
    bake: Sequence[int] = (),
    opset: int | None = None,
    device: str = "auto",
    limit: float | None = None,
    tf32: bool = False,
) -> Verdict:
    """Judge an ONNX file against the eager function.

    Args:
        fn: the pure function.
        args: its arguments, as for `to_onnx`.
        path: the file. If it exists, it is the file that is judged and it is not touched; otherwise the function is
            exported there first. None exports to a temporary folder.
        against: another version that must agree as well. A plain function is called as `against(*args)`; an
            `nn.Module`, which holds its own parameters, with the arguments after the first, empty trees left out.
        dynamic: as for `to_onnx`; each dynamic size is run again at 1, 2, 3, 7, the example's and a larger one.
        bake: as for `to_onnx`.
        opset: as for `to_onnx`, where the file is written here; a file that exists keeps its own.
        device: where the file runs: "auto", "cpu" or "cuda".
        limit: the largest ratio that passes; 2 by default, 3 for half types.
        tf32: whether a GPU may round float32 products to TF32, in ONNX Runtime and in PyTorch alike: the file is
            judged by what eager loses with the same rounding. Without it neither may, whatever PyTorch is set to.

    Returns:
        The verdict; `verdict.raise_if_failed()` turns a failure into an error. If a leaf failed,
        `verdict.divergence` names the first node that differs and the folder of a reproduction: beside the file
        (`model.onnx.reproduction`), or a new temporary folder if `path` is None.

    Raises:
        ExportError: if the export or the load fails, with the narrower type that `to_onnx` and `load` document.

    Example:
        >>> import torch
        >>> verdict = verify(torch.tanh, (torch.linspace(-3, 3, 64),), device="cpu")
        >>> verdict.passed
        True
    """
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        stack.enter_context(float32_products(tf32))
        if path is None:
            file = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pure-export-"))) / "model.onnx"
        else:
            file = Path(path)
        if not file.exists():
            to_onnx(fn, args, file, bake=bake, dynamic=dynamic, opset=opset)
        runs = PairedRuns(fn, args, file, dynamic=dynamic, bake=bake, device=device, tf32=tf32)
        judge = Judge(runs, limit)
        rows = judge.rows()
        if against is not None:
            rows += judge.against(against, args)
        divergence = _divergence(judge, kept=path is not None)
    return Verdict(
        path=str(file),
        rows=tuple(rows),
        predicates=tuple(judge.predicates),
        device=runs.loaded.device,
        lifted=tuple(judge.lifted),
        samples=judge.samples,
        floor_ulp=FLOOR_ULP,
        divergence=divergence,
        seconds=time.perf_counter() - began,
        kinks=runs.found_kinks(),
    )


def _divergence(judge: Judge, kept: bool) -> Divergence | None:
    """Name the first node that differs, and write a reproduction, if a leaf failed."""
    if judge.failed_leaves is None:
        return None
    if kept:
        folder = judge.runs.file.with_name(judge.runs.file.name + ".reproduction")
    else:
        folder = Path(tempfile.mkdtemp(prefix="pure-export-reproduction-"))
    return localise(judge.runs, judge.failed_leaves, folder)
