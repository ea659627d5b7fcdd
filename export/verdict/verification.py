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
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from export.errors import ArgumentError, UnusedInputWarning, nearest
from export.files.opening import open_model
from export.footprint.measuring import measure
from export.graph.onnx_export import to_onnx
from export.runtime import loading
from export.runtime.saved_graph import MAX_STORED_BYTES
from export.trace.signature import check_callable
from export.trace.symbolic_sizes import sizes_of
from export.verdict.foreign.flat_call import FlatCall
from export.verdict.foreign.foreign_file import ForeignFile
from export.verdict.foreign.samples import as_call, read_sample
from export.verdict.judge import Judge
from export.verdict.judged_file import JudgedFile
from export.verdict.localisation import localise
from export.verdict.monte_carlo import RUNS
from export.verdict.reference_runs import float32_products
from export.verdict.verdict_result import Divergence, Verdict, unused_text

__all__ = ["verify"]


def verify(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    path: str | os.PathLike[str] | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    inputs: Mapping[str, int | str] | None = None,
    samples: Sequence[Sequence[Any] | Mapping[str, Any] | str | os.PathLike[str]] = (),
    against: Callable[..., Any] | None = None,
    dynamic: Sequence[Any] | Mapping[str, Any] | None = None,
    bake: Sequence[int] = (),
    opset: int | None = None,
    device: str = "auto",
    limit: float | None = None,
    tf32: bool = False,
    check: bool = True,
) -> Verdict:
    """Judge an ONNX file against the eager function or module.

    The file may come from anywhere: `to_onnx`, `torch.onnx.export`, another converter, by hand. Its inputs and outputs
    are matched with those of the call by name, else by order.

    Args:
        fn: the pure function, block or `nn.Module`; a module in the mode it is in, and it stays unchanged.
        args: its positional arguments; may be left out where `samples` say them.
        path: the file, which is not touched. None exports the function to a temporary folder and judges that.
        kwargs: arguments by name.
        inputs: {file input: position or dotted name of a tensor of the call}, where neither names nor order tell.
        samples: further inputs to judge on: each the positional arguments, or tensors by name, or a .npz or
            .safetensors file of these.
        against: another version that must agree as well. A plain function is called as `against(*args)`; an
            `nn.Module`, which holds its own parameters and buffers, with the arguments after the first, empty trees
            and the tree of its buffers left out.
        dynamic: as for `to_onnx`; each dynamic size is run again at several sizes, and all together. None takes the
            sizes that the file names. For a file from elsewhere also {tensor's name: {axis: size name}}.
        bake: as for `to_onnx`.
        opset: as for `to_onnx`, where the function is exported here; a file that exists keeps its own.
        device: where the file runs: "auto", "cpu" or "cuda".
        limit: the largest ratio of an element to its rounding scale that passes; 8 by default.
        tf32: whether a GPU may round float32 products to TF32, in ONNX Runtime and in PyTorch alike: eager is
            computed with the same rounding. Without it neither may, whatever PyTorch is set to.
        check: whether a file that holds a digest is compared with it first, as by `load`; False judges a file of ours
            that another program changed on purpose.

    Returns:
        The verdict; `verdict.raise_if_failed()` turns a failure into an error. If a leaf failed,
        `verdict.divergence` names the first node that differs and the folder of a reproduction: beside the file
        (`model.onnx.reproduction`), or a new temporary folder if `path` is None.

    Raises:
        ArgumentError: if the file does not exist, its inputs cannot be matched with the call's tensors, a sample does
            not fit, or `against` cannot be called.
        DamagedFileError: if the file is not as it was written; the message names what differs.
        ExportError: if the export or the load fails, with the narrower type that `to_onnx` and `load` document.

    Warns:
        UnusedInputWarning: if no output depends on some input or weight, about which the verdict then says nothing.

    Example:
        >>> import torch
        >>> verdict = verify(torch.tanh, (torch.linspace(-3, 3, 64),), device="cpu")
        >>> verdict.passed
        True
    """
    began = time.perf_counter()
    _check(fn, against, samples, inputs)
    read = [read_sample(sample) for sample in samples]
    with contextlib.ExitStack() as stack:
        stack.enter_context(float32_products(tf32))
        if path is None:
            file = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pure-export-"))) / "model.onnx"
            if kwargs:
                call = FlatCall(fn, args, kwargs)
                fn, args, bake, kwargs = call, (call.weights, *call.leaves), (0,), None
            if isinstance(dynamic, Mapping):
                raise ArgumentError(
                    "dynamic by name is for a file that is there; for an export, give one entry per argument"
                )
            to_onnx(fn, args, file, bake=bake, dynamic=dynamic, opset=opset)
        else:
            file = _existing(path, opset)
        opened = open_model(file, check=check)
        call_inside, stored = opened.call, sum(tensor.nbytes for tensor in opened.tensors.values())
        judged: JudgedFile
        if not isinstance(dynamic, Mapping) and _is_own(fn, args, call_inside, kwargs, inputs, read):
            judged = JudgedFile(fn, args, file, dynamic=dynamic, bake=bake, device=device, tf32=tf32)
        else:
            judged = _foreign(fn, args, kwargs, file, read, inputs=inputs, dynamic=dynamic, device=device, tf32=tf32)
        judge = Judge(judged, limit, [judged.sample(sample, f"sample {n}") for n, sample in enumerate(read, 1)])
        rows = judge.rows()
        if against is not None:
            rows += judge.against(against, args)
        divergence = _divergence(judge, kept=path is not None)
        peak_bytes = _peak_bytes(judged) if stored <= MAX_STORED_BYTES else None
    if judge.unused:
        warnings.warn(unused_text(judge.unused), UnusedInputWarning, stacklevel=2)
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
        unused=tuple(judge.unused),
        notes=tuple(judged.notes),
        peak_bytes=peak_bytes,
    )


def _check(fn: object, against: object, samples: object, inputs: object) -> None:
    """Refuse what would only fail far from here, such as a file's name in another argument's place."""
    check_callable(fn)
    if isinstance(samples, (str, os.PathLike)):
        raise ArgumentError(f"samples must be a sequence, got {str(samples)!r}; write samples=[{str(samples)!r}]")
    if inputs is not None and not isinstance(inputs, Mapping):
        raise ArgumentError(
            f"inputs must be {{file input: position or dotted name of a tensor of the call}}, got {inputs!r:.100}"
        )
    if against is not None and not callable(against):
        raise ArgumentError(
            f"against must be a function or an nn.Module, another version to compare with, got {against!r:.100}; "
            "a file to judge is the third argument, path"
        )


def _peak_bytes(judged: JudgedFile) -> int | None:
    """Return the bytes alive at once in a call on the example, None on a GPU, or if a size of the file is not known."""
    sizes = sizes_of(judged.arguments.axes, judged.arguments.leaves)
    named = {dim.dim_param for value in judged.model.graph.input for dim in value.type.tensor_type.shape.dim}
    if judged.loaded.device != "cpu" or not named <= {"", *sizes}:
        return None
    return measure(judged.file, sizes).peak_bytes


def _existing(path: str | os.PathLike[str], opset: int | None) -> Path:
    file = Path(path)
    if not file.is_file():
        others = [other.name for other in file.parent.glob("*.onnx")] if file.parent.is_dir() else []
        raise ArgumentError(
            f"{file}: there is no such file to judge{nearest(file.name, others)}; verify writes none: call to_onnx "
            "first, or leave the path out to judge a fresh export"
        )
    if opset is not None:
        raise ArgumentError(f"opset={opset} is for an export; {file} is there and keeps its own")
    return file


def _is_own(
    fn: Callable[..., Any],
    args: Sequence[Any],
    call: Mapping[str, Any] | None,
    kwargs: Mapping[str, Any] | None,
    inputs: Mapping[str, int | str] | None,
    samples: Sequence[Any],
) -> bool:
    """Tell whether the file itself says how it is called, and the function is called so."""
    if call is None or kwargs or inputs or (samples and not args):
        return False
    return len(call["arguments"]) == len(args) or not isinstance(fn, torch.nn.Module)


def _foreign(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    file: Path,
    samples: list[Any],
    **options: Any,
) -> ForeignFile:
    """Return the file beside the function; without arguments the first of the samples is the call."""
    if not args and not kwargs and samples:
        first = samples.pop(0)
        names = [leaf.name for leaf in loading.open_file(file, "cpu", spinning=False, by_name=True, check=False).inputs]
        args, kwargs = as_call(fn, first, names)
    return ForeignFile(FlatCall(fn, args, kwargs), file, **options)


def _divergence(judge: Judge, kept: bool) -> Divergence | None:
    """Name the first node that differs and write a reproduction, if a leaf failed; a stale one is removed else."""
    beside = judge.file.file.with_name(judge.file.file.name + ".reproduction")
    if judge.failed is None:
        if kept and (beside / "reproduce.py").exists():
            shutil.rmtree(beside)
        return None
    return localise(judge, beside if kept else Path(tempfile.mkdtemp(prefix="pure-export-reproduction-")))
