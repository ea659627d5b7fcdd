"""The one call into `onnxruntime.quantization`, kept silent and within a temporary folder."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from export.errors import ArgumentError, LoadError, nearest
from export.quantization.batches import Feed

__all__ = ["Options", "check", "run"]

LARGEST_SCALE = 2.0**96
"""The step between two 8-bit values above which a range can only come from an infinity or a stand-in for one."""

METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
INTEGERS = {"uint8": "QUInt8", "int8": "QInt8"}
PREPARED = {"key": "onnx.quant.pre_process", "value": "onnxruntime.quant"}
"""How the quantiser's own pre-processing marks a model; without it, it asks for that."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What `quantize` was asked for; `exclude` holds names of nodes."""

    method: str
    activations: str
    per_channel: bool
    reduce_range: bool
    exclude: tuple[str, ...]


def check(method: str, activations: str) -> None:
    """Check the words.

    Raises:
        ArgumentError: for an unknown one.
    """
    for name, word, known in (("method", method, METHODS), ("activations", activations, INTEGERS)):
        if word not in known:
            raise ArgumentError(f"{name} must be one of {', '.join(known)}, got {word!r}{nearest(str(word), known)}")


def run(
    model: onnx.ModelProto, feeds: Sequence[Feed] | None, options: Options, operators: Sequence[str], folder: Path
) -> onnx.ModelProto:
    """Quantise a prepared model.

    Args:
        model: the model, without functions.
        feeds: calibration inputs, one entry a batch; None finds scales at run time.
        options: what was asked for.
        operators: the operators to quantise.
        folder: where temporary files may lie.

    Raises:
        LoadError: if a package that the quantiser needs is missing.
        ArgumentError: if a tensor has no finite range.
    """
    try:
        with _quiet():
            from onnxruntime import quantization  # prints and warns, and needs packages of its own
    except ImportError as error:
        raise LoadError(
            f"ONNX Runtime's quantiser needs {error.name}, which is not installed; pip install {error.name}"
        ) from error
    model.metadata_props.add(**PREPARED)
    given, made = folder / "given.onnx", folder / "made.onnx"
    onnx.save(model, given)
    shared: dict[str, Any] = {
        "op_types_to_quantize": list(operators),
        "per_channel": options.per_channel,
        "reduce_range": options.reduce_range,
        "weight_type": quantization.QuantType.QInt8,
        "nodes_to_exclude": list(options.exclude),
    }
    with _quiet():
        if feeds is None:
            quantization.quantize_dynamic(given, made, **shared)
        else:
            quantization.quantize_static(
                given,
                made,
                _Reader(feeds),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=getattr(quantization.QuantType, INTEGERS[options.activations]),
                calibrate_method=getattr(quantization.CalibrationMethod, METHODS[options.method]),
                calibration_providers=["CPUExecutionProvider"],
                extra_options={"CalibStridedMinMax": 1},  # one batch at a time: their sizes may differ
                **shared,
            )
    quantised = onnx.load(made)
    wild = [
        t.name.removesuffix("_scale") for t in quantised.graph.initializer if t.name.endswith("_scale") and _wild(t)
    ]
    if wild:
        raise ArgumentError(
            f"the calibration batches give {', '.join(wild[:5])} no finite range (a mask of -inf, or an overflow); "
            "leave the operations that compute or read it in float by exclude=…"
        )
    return quantised


def _wild(scale: onnx.TensorProto) -> bool:
    values = onnx.numpy_helper.to_array(scale).astype(np.float64)
    return not bool((np.isfinite(values) & (values < LARGEST_SCALE)).all())


class _Reader:
    """Gives the batches of a range one by one, as the quantiser's CalibrationDataReader."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self.feeds = feeds
        self.set_range(0, len(feeds))

    def set_range(self, start_index: int, end_index: int) -> None:
        self.waiting = iter(self.feeds[start_index:end_index])

    def get_next(self) -> Feed | None:
        return next(self.waiting, None)

    def __len__(self) -> int:
        return len(self.feeds)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the quantiser prints, warns and logs (through the root logger) to itself."""
    root = logging.getLogger()
    handler = logging.NullHandler()  # without any handler, logging.warning would add one for good

    def ours(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in Path(record.pathname).parts

    root.addHandler(handler)
    root.addFilter(ours)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(ours)
        root.removeHandler(handler)
