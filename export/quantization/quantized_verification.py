"""`verify_quantized`: what did 8-bit integers lose, on data that the file was not calibrated with?"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.errors import ArgumentError, nearest
from export.files import protobuf_wire
from export.files.call_schema import read_call
from export.files.pytree_structure import describe
from export.files.tensor_values import as_array
from export.quantization import fidelity
from export.quantization.batches import Feed, fed
from export.quantization.integer_kernels import Kernels, kernels
from export.quantization.quantization_verdict import (
    MIN_AGREEMENT,
    MIN_SQNR_DB,
    Agreement,
    Latency,
    Leaf,
    QuantizationVerdict,
)
from export.quantization.quantizing import file_size
from export.runtime import loading
from export.runtime.loaded_file import Loaded

__all__ = ["verify_quantized"]

Array = np.ndarray[Any, Any]

TIMED_CALLS, WARM_UP_CALLS = 30, 5
"""How many calls latency is measured by, and how many come before that."""


def verify_quantized(
    path: str | os.PathLike[str],
    reference: str | os.PathLike[str],
    batches: Iterable[Sequence[Any]],
    *,
    labels: Any = None,
    fn: Callable[..., Any] | None = None,
    args: Sequence[Any] | None = None,
    scores: str | None = None,
    min_sqnr_db: float | None = None,
    min_agreement: float | None = None,
    latency: bool = False,
    device: str = "cpu",
) -> QuantizationVerdict:
    """Judge a quantised file by what is left of the signal and of the answers.

    Args:
        path: the file that `quantize` wrote.
        reference: the float file that it was made from.
        batches: held-out data, none of which calibrated the file: for each batch the tuple of arguments that the
            loaded function takes.
        labels: the right classes as integers, one a sample in the order of the batches: one array, or one a batch.
        fn: the eager function, so that errors are counted from its float64 values; None counts them from the float
            file, which `verify` may have judged.
        args: the arguments that the float file was exported with; the baked ones among them go into `fn`.
        scores: the output that holds the scores of classes on its last axis, such as `"out"`; the only output, if
            there is one only and `labels` or `min_agreement` is given.
        min_sqnr_db: the least signal-to-quantisation-noise ratio of a float output; 25.84 dB by default, which is half
            of the 8 bits (6.02 dB a bit + 1.76 dB).
        min_agreement: what the lower end of the 95 % interval of the agreement with the float file must reach; 0.95 by
            default.
        latency: whether to measure calls of both files in turn as well.
        device: where both files run; the 8-bit kernels are those of the CPU.

    Returns:
        The verdict. It fails at NaN or infinities, at another structure, and below a limit.

    Raises:
        ArgumentError: if the batches, labels, scores or arguments do not fit the files.
        LoadError: if ONNX Runtime refuses a file.

    Example:
        >>> import tempfile, torch
        >>> from export import quantize, to_onnx
        >>> w, x = torch.eye(8), torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exact, small = folder + "/f.onnx", folder + "/small.onnx"
        ...     written = to_onnx(lambda w, x: x @ w, (w, x[:128]), exact, bake=(0,))
        ...     small = quantize(exact, small, [(x[:128],)])
        ...     verify_quantized(small.path, exact, [(x[128:],)], min_sqnr_db=30).passed
        True
    """
    path, reference = Path(path), Path(reference)
    own, exact = (loading.open_file(file, device, spinning=False) for file in (path, reference))
    least_db, least_same = _limits(min_sqnr_db, min_agreement)
    ran = kernels(path)
    problems = _problems(path, reference, ran)
    given = list(batches)
    feeds = fed(exact, given)
    leaves: list[Leaf] = []
    agreements: list[Agreement] = []
    accuracy = None
    if not problems:
        scored = _scored(exact, scores, labels is not None or min_agreement is not None)
        floats = _results(exact, given)
        found = _results(own, given)
        baseline = floats if fn is None else _in_float64(fn, args, feeds, exact)
        for leaf in exact.outputs:
            batched = bool(leaf.shape) and isinstance(leaf.shape[0], str)
            own_values, values, right = (
                fidelity.joined(x[leaf.name], batched=batched) for x in (found, floats, baseline)
            )
            if values.dtype.kind == "f":
                leaves.append(fidelity.judged(leaf.name, own_values, values, right, least_db, exact=fn is None))
            if leaf.name == scored:
                agreement, accuracy = fidelity.classes(leaf.name, own_values, values, _labels(labels), least_same)
                agreements.append(agreement)
            elif values.dtype.kind != "f":
                agreements.append(fidelity.agreement(leaf.name, own_values, values, least_same))
    return QuantizationVerdict(
        path=str(path),
        reference=str(reference),
        baseline="the float file" if fn is None else "eager float64",
        leaves=tuple(leaves),
        agreements=tuple(agreements),
        accuracy=accuracy,
        kernels=ran,
        size=file_size(path),
        reference_size=file_size(reference),
        latency=_latency(own, exact, given[0]) if latency and not problems else None,
        batches=len(feeds),
        device=own.device,
        problems=tuple(problems),
    )


def _limits(min_sqnr_db: float | None, min_agreement: float | None) -> tuple[float, float]:
    if min_sqnr_db is not None and math.isnan(min_sqnr_db):
        raise ArgumentError("min_sqnr_db must be a number of decibels, got nan")
    if min_agreement is not None and not 0 <= min_agreement <= 1:
        raise ArgumentError(f"min_agreement must be from 0 to 1, got {min_agreement!r}")
    return (
        MIN_SQNR_DB if min_sqnr_db is None else min_sqnr_db,
        MIN_AGREEMENT if min_agreement is None else min_agreement,
    )


def _problems(path: Path, reference: Path, ran: Kernels) -> list[str]:
    """Say what makes a comparison impossible: another call, or nothing to judge."""
    calls = []
    for file in (path, reference):
        call = read_call(protobuf_wire.read_header(file), file)
        if call is None:
            raise ArgumentError(f"{file} was not written by to_onnx or quantize, so its call is not known")
        calls.append(call)
    problems = [
        f"{word} of the two files differ: {calls[0][key]} and {calls[1][key]}"
        for key, word in (("arguments", "the arguments"), ("leaves", "the inputs"), ("out", "the outputs"))
        if calls[0][key] != calls[1][key]
    ]
    if not ran.integer:
        problems.append(f"nothing in {path} runs on 8-bit integers")
    return problems


def _scored(exact: Loaded, scores: str | None, wanted: bool) -> str | None:
    """Return the output that holds the scores, None if classes are not asked for."""
    names = [leaf.name for leaf in exact.outputs]
    if scores is not None and scores not in names:
        raise ArgumentError(f"scores: no output is named {scores!r}{nearest(scores, names)}; they are {names}")
    if scores is None and wanted and len(names) > 1:
        raise ArgumentError(f"scores: name the output that holds the classes' scores, one of {names}")
    return scores if scores is not None else names[0] if wanted else None


def _labels(labels: Any) -> Array | None:
    if labels is None:
        return None
    parts = labels if isinstance(labels, (list, tuple)) and labels and np.ndim(labels[0]) else [labels]
    whole = np.concatenate([np.asarray(part).ravel() for part in parts])
    if whole.dtype.kind not in "iu":
        raise ArgumentError(f"labels must be integers, got {whole.dtype}")
    return whole


def _results(loaded: Loaded, batches: Sequence[Sequence[Any]]) -> dict[str, list[Array]]:
    """Run every batch; return each output's arrays by its name."""
    found: dict[str, list[Array]] = {leaf.name: [] for leaf in loaded.outputs}
    for batch in batches:
        _, values, _ = describe(loaded(*batch), lambda x: hasattr(x, "dtype"), "out")
        for leaf, value in zip(loaded.outputs, values, strict=True):
            found[leaf.name].append(as_array(value, leaf.dtype))
    return found


def _in_float64(
    fn: Callable[..., Any], args: Sequence[Any] | None, feeds: Sequence[Feed], exact: Loaded
) -> dict[str, list[Array]]:
    """Run the eager function in float64 on every batch; return each output's arrays by its name."""
    import torch  # without fn the verdict needs neither PyTorch nor a recorded function

    from export.trace.arguments import take_apart
    from export.verdict import reference_runs

    if args is None:
        raise ArgumentError("fn needs args as well: what the float file was exported with, baked arguments included")
    arguments = take_apart(fn, args, None)
    missing = [name for name in feeds[0] if name not in arguments.leaf_names]
    if missing:
        raise ArgumentError(
            f"fn and args do not fit {exact.path.name}: its inputs {', '.join(missing)} are not among their leaves "
            f"({', '.join(arguments.leaf_names[:20])})"
        )
    found: dict[str, list[Array]] = {leaf.name: [] for leaf in exact.outputs}
    for feed in feeds:
        leaves = [
            torch.from_numpy(np.array(feed[name])) if name in feed else leaf.cpu()
            for name, leaf in zip(arguments.leaf_names, arguments.leaves, strict=True)
        ]
        outcome = reference_runs.run(fn, arguments, leaves, to=torch.float64)
        if set(outcome.names) != set(found):
            raise ArgumentError(f"fn gives {list(outcome.names)}, {exact.path.name} gives {list(found)}")
        for name, value in zip(outcome.names, outcome.leaves, strict=True):
            found[name].append(value.numpy())
    return found


def _latency(own: Loaded, exact: Loaded, batch: Sequence[Any]) -> Latency:
    """Time both files in turn, so that what else the machine does meets both."""
    times: list[tuple[float, float]] = []
    for _ in range(WARM_UP_CALLS + TIMED_CALLS):
        pair = []
        for loaded in (exact, own):
            began = time.perf_counter()
            loaded(*batch)
            pair.append(1e3 * (time.perf_counter() - began))
        times.append((pair[0], pair[1]))
    measured = times[WARM_UP_CALLS:]
    low, middle, high = statistics.quantiles([after / before for before, after in measured], n=4)
    floats, quantized = (statistics.median(column) for column in zip(*measured, strict=True))
    return Latency(floats, quantized, middle, low, high, TIMED_CALLS)
