"""`verify`: does a file compute what the function computes?

The function is recorded once. The reference is that graph in float64, and each element's rounding scale is its spread
when the same graph is run with random roundings (Monte Carlo arithmetic: `export.verdict.monte_carlo`). The file, and
eager itself, are judged element by element in units of these scales. Fixed tolerances are used nowhere, and nothing
depends on a clock: the same seed gives the same verdict.

Where the function decides by value, as a derivative of relu or max pooling does, an operand within rounding of the jump
leaves either side open; the scales of what depends on it hold the jump. At a clear margin the other side is an error.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from export.graph.onnx_export import to_onnx
from export.verdict.judge import Judge
from export.verdict.judged_file import JudgedFile
from export.verdict.localisation import localise
from export.verdict.monte_carlo import RUNS
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
        dynamic: as for `to_onnx`; each dynamic size is run again at 1, 2, 3, 7, the example's and a larger one, and all
            together. None takes the sizes that the file names.
        bake: as for `to_onnx`.
        opset: as for `to_onnx`, where the file is written here; a file that exists keeps its own.
        device: where the file runs: "auto", "cpu" or "cuda".
        limit: the largest ratio of an element to its rounding scale that passes; 8 by default.
        tf32: whether a GPU may round float32 products to TF32, in ONNX Runtime and in PyTorch alike: eager is
            computed with the same rounding. Without it neither may, whatever PyTorch is set to.

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
        judged = JudgedFile(fn, args, file, dynamic=dynamic, bake=bake, device=device, tf32=tf32)
        judge = Judge(judged, limit)
        rows = judge.rows()
        if against is not None:
            rows += judge.against(against, args)
        divergence = _divergence(judge, kept=path is not None)
    return Verdict(
        path=str(file),
        rows=tuple(rows),
        predicates=tuple(judge.predicates),
        device=judged.loaded.device,
        lifted=tuple(judge.lifted),
        runs=RUNS,
        divergence=divergence,
        seconds=time.perf_counter() - began,
        decisions=tuple(judge.decisions),
        outputs=tuple(judge.outputs),
    )


def _divergence(judge: Judge, kept: bool) -> Divergence | None:
    """Name the first node that differs and write a reproduction, if a leaf failed; a stale one is removed else."""
    beside = judge.file.file.with_name(judge.file.file.name + ".reproduction")
    if judge.failed is None:
        if kept and (beside / "reproduce.py").exists():
            shutil.rmtree(beside)
        return None
    return localise(judge, beside if kept else Path(tempfile.mkdtemp(prefix="pure-export-reproduction-")))
