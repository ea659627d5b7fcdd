"""`quantize`: a file with 8-bit integers in place of floats, made by ONNX Runtime's own quantiser.

What this adds to it: batches are the pytrees of the loaded function's call and are checked against it; functions inside
the file are inlined and batch normalisation is folded into convolutions first; the call, the names and the source lines
stay; nothing is printed or logged, and the file appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import onnx
import onnxruntime

from export.errors import ArgumentError, WriteError
from export.files import digest, protobuf_wire
from export.files.opening import open_model
from export.graph.functions.function_inlining import inline
from export.quantization import onnxruntime_quantizer, preparation
from export.quantization.batches import Feed, fed
from export.quantization.integer_kernels import Kernels, kernels
from export.runtime import loading, sessions
from export.runtime.loaded_file import Loaded
from pure_export_shared import HtmlText, replacing

__all__ = ["Quantized", "file_size", "quantize"]

STATIC = (
    *preparation.WEIGHTS,
    *("Gather", "Add", "Mul", "Relu", "LeakyRelu", "Clip", "Sigmoid", "MaxPool", "AveragePool", "GlobalAveragePool"),
    *("Concat", "Flatten", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)
"""What is quantised with calibration. Softmax, masks (Where) and normalisation need more than 8 bits of range."""

DYNAMIC = ("MatMul", "Gather")
"""What is quantised without calibration; ONNX Runtime has no fast convolution with scales found at run time."""

Method = Literal["minmax", "entropy", "percentile"]


@dataclasses.dataclass(frozen=True)
class Quantized(HtmlText):
    """What a quantisation wrote.

    Attributes:
        path: the file.
        method: how ranges of activations were chosen: "minmax", "entropy", "percentile"; "dynamic" without calibration.
        batches: how many batches the ranges were taken from.
        kernels: which operations ONNX Runtime computes on 8-bit integers on this machine's CPU, and which on floats.
        size: bytes of the file.
        source_size: bytes of the float file, its external data included.
    """

    path: Path
    method: str
    batches: int
    kernels: Kernels
    size: int
    source_size: int

    def load(self, device: str = "cpu") -> Loaded:
        """Load the file; see `export.load`. The 8-bit kernels are those of the CPU."""
        return loading.load(self.path, device=device)

    def __str__(self) -> str:
        how = "scales found at run time" if self.method == "dynamic" else f"{self.method} over {self.batches} batches"
        return (
            f"{self.path} ({self.size / 1024:.1f} KiB, {self.size / self.source_size:.0%} of the float file; {how}): "
            f"{self.kernels}"
        )


def quantize(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    batches: Iterable[Sequence[Any]] | None = None,
    *,
    method: Method = "minmax",
    activations: Literal["uint8", "int8"] = "uint8",
    per_channel: bool = True,
    reduce_range: bool = True,
    exclude: Sequence[str] = (),
) -> Quantized:
    """Write a copy of a file that computes on 8-bit integers; `verify_quantized` then says what that lost.

    Args:
        path: a float32 file that `to_onnx` wrote with its weights inside (`bake`). It is not touched.
        out: the file to write. It takes the same call, by the same names.
        batches: calibration data: for each batch the tuple of arguments that the loaded function takes, such as
            `[(x,), …]`. They must be like the data that the file will see, as they fix the range of every
            activation. None: weights of linear layers and embeddings only, with scales found at run time.
        method: how a range is chosen: from the smallest to the largest value ("minmax"), by the least loss of
            information ("entropy"), or without the outermost values ("percentile"). The latter two keep every
            activation of a batch in memory, so give small batches.
        activations: the integers of activations. Intel and AMD processors multiply "uint8" by the weights' int8, and
            ONNX Runtime leaves many "int8" convolutions of residual networks in float there; "int8" suits ARM.
        per_channel: whether each output channel of a weight has a scale of its own.
        reduce_range: whether weights take 7 bits. x86 processors without VNNI instructions add two products of 8 bits
            in 16 bits, which overflows (measured on one file: 11.9 dB of 33.8 are left); with 7 bits nothing can, and
            a file has the same values on every processor. False gains up to 6 dB where the file only runs on
            processors with VNNI (or AMX) or on ARM.
        exclude: patterns of node names or block paths that stay float, such as `"fc"` or `"stage1.*"`.

    Returns:
        What was written.

    Raises:
        ArgumentError: if the file was not written by `to_onnx`, holds no weights or no operation with weights, a
            batch does not fit the call or holds NaN or infinities, there are no batches in `batches`, `out` is
            `path`, or an option is unknown.
        UnsupportedOpError: if the weights are not float32.
        WriteError: if the path cannot be written.
        LoadError: if ONNX Runtime refuses the file.

    Example:
        >>> import tempfile, torch
        >>> from export import to_onnx
        >>> w, x = torch.eye(8), torch.linspace(-1, 1, 256).reshape(32, 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = to_onnx(lambda w, x: torch.relu(x @ w), (w, x), folder + "/f.onnx", bake=(0,))
        ...     small = quantize(written.path, folder + "/small.onnx", [(x,)])
        ...     print(small.kernels, small.load()(x).shape)
        8-bit: 1 QLinearMatMul; float: none torch.Size([32, 8])
    """
    onnxruntime_quantizer.check(method, activations)
    source, target = Path(path), Path(out)
    opened = open_model(source)
    call = opened.call
    if call is None:
        raise ArgumentError(
            f"{source} was not written by to_onnx, so batches cannot be matched with its inputs; "
            "use onnxruntime.quantization.quantize_static on it"
        )
    if protobuf_wire.QUANTIZED_KEY in opened.header.metadata:
        raise ArgumentError(f"{source} is quantised already; give the float file that it was made from")
    if target.exists() and target.samefile(source):
        raise ArgumentError(f"out is the file itself, {source}; give another name, as the float file is still needed")
    with replacing(target, WriteError) as file, tempfile.TemporaryDirectory(prefix="pure-export-") as folder:
        feeds = None if batches is None else fed(loading.open_file(source, "cpu", spinning=False, check=False), batches)
        original = inline(onnx.load(source))
        model = preparation.prepared(original, source, Path(folder))
        preparation.check_weights(model, source, call)
        options = onnxruntime_quantizer.Options(
            method, activations, per_channel, reduce_range, preparation.excluded(model, original, exclude)
        )
        model = onnxruntime_quantizer.run(model, feeds, options, DYNAMIC if feeds is None else STATIC, Path(folder))
        used = {"method": method if feeds is not None else "dynamic", "batches": len(feeds or ())}
        preparation.restore(model, original, {**used, "onnxruntime": onnxruntime.__version__})
        content = model.SerializeToString()
        finished = Path(folder) / "finished.onnx"
        finished.write_bytes(content)
        ran = kernels(finished)
        if feeds is not None:
            _try(finished, feeds[0])
        if not ran.integer:
            raise ArgumentError(_nothing(source, ran, feeds is None))
        file.writelines([*digest.blank(len(model.graph.initializer), 0).chunks(), content])
        digest.stamp(file)
        size = file.tell()
    return Quantized(target, str(used["method"]), len(feeds or ()), ran, size, file_size(source))


def file_size(path: Path) -> int:
    """Return the bytes of a file and of the files that hold its external data."""
    model = onnx.load(path, load_external_data=False)
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if tensor.data_location == onnx.TensorProto.EXTERNAL and entry.key == "location"
    }
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in names)


def _try(path: Path, feed: Feed) -> None:
    """Run a quantised file once: a quantiser's mistake shall be found here, not by the user."""
    session = sessions.open_session(path, sessions.Choice("cpu", "to try it"), spinning=False)
    try:
        session.run(None, feed)
    except sessions.ERRORS as error:
        raise sessions.translated(error, path) from error


def _nothing(source: Path, ran: Kernels, dynamic: bool) -> str:
    hint = "; give calibration batches, which convolutions need" if dynamic else ""
    return f"nothing in {source} could be made 8-bit: ONNX Runtime computes all of it on floats ({ran}){hint}"
