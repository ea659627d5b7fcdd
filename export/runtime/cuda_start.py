"""Why ONNX Runtime's CUDA provider does not start though its library loads, and what to do about it.

Some reasons are in the exception, within a page of C++; others ONNX Runtime only writes to its log, on stderr, and goes
on with the CPU.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import onnxruntime

from export.runtime.onnxruntime_errors import ERRORS

__all__ = ["MODEL", "explained", "logged", "problem"]

MODEL = (
    b'\x08\x08:2\n\x0b\n\x01x\x12\x01y"\x03Neg\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
"""An ONNX model of one node: y = Neg(x), float32 of shape (1,)."""

_FAILURE = re.compile(
    r"(?P<library>CUDA|CUDNN|CUBLAS) failure (?P<code>\d+): (?P<text>[^;\n]*?) ;.*?expr=(?P<call>\w+)"
)
_LOG = re.compile(r"\S+ \S+ \[\w:onnxruntime:[^\]]*\] (?P<text>.*)")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_CUDA = "CUDAExecutionProvider"
_ERROR_SEVERITY = 3
_MAX_REASON_CHARACTERS = 400

_FIXES = {
    ("CUDA", "35"): "the NVIDIA driver is older than ONNX Runtime's CUDA; update the driver (nvidia-smi shows it), or "
    "pip install an onnxruntime-gpu built for an older CUDA",
    ("CUDA", "100"): "the driver has no GPU for this process; check nvidia-smi and CUDA_VISIBLE_DEVICES",
    ("CUDA", "2"): "the GPU's memory is full; end what else runs there (nvidia-smi), or share it by gpu_mem_limit",
    ("CUDNN", ""): "cuDNN does not start; pip install --force-reinstall 'onnxruntime-gpu[cuda,cudnn]', and check by "
    "nvidia-smi that there is memory left",
    ("CUBLAS", ""): "cuBLAS does not start, mostly because the GPU's memory is full; check nvidia-smi, or "
    "pip install --force-reinstall 'onnxruntime-gpu[cuda,cudnn]'",
}
"""{(library, its error code or nothing for any): what is wrong; what to do}."""


def explained(text: str) -> str | None:
    """Return what ONNX Runtime's exception says of CUDA in one line, with a fix; None if it is about something else."""
    found = _FAILURE.search(text)
    if found is None:
        return None
    library, code = found["library"], found["code"]
    fix = _FIXES.get((library, code)) or _FIXES.get((library, ""))
    said = f"{library} error {code} in {found['call']}: {found['text'].strip()}"
    return f"{said}: {fix}" if fix else said


def problem() -> str | None:
    """Start a session of one node on the first GPU, and say why it does not start; None if it does."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # as `sessions` sets it
    try:
        session = onnxruntime.InferenceSession(MODEL, options, providers=[_CUDA], enable_fallback=0)
    except ERRORS as error:
        return explained(str(error)) or str(error).splitlines()[0]
    if _CUDA in session.get_providers():
        return None
    return f"ONNX Runtime went to the CPU instead: {logged() or 'it gave no reason'}"


def logged(index: int = 0) -> str | None:
    """Return what ONNX Runtime writes to its log while it fails to start CUDA; None if it starts or says nothing."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERROR_SEVERITY
    raised = ""
    with _captured() as read:
        onnxruntime.set_default_logger_severity(_ERROR_SEVERITY)
        try:
            providers = [(_CUDA, {"device_id": str(index)})]
            onnxruntime.InferenceSession(MODEL, options, providers=providers, enable_fallback=0)
        except ERRORS as error:
            raised = str(error)
        finally:
            onnxruntime.set_default_logger_severity(4)  # as `sessions` sets it
        text = read()
    known = explained(raised) or explained(text)
    if known:
        return known
    lines = [found["text"].strip() for line in text.splitlines() if (found := _LOG.match(_COLOUR.sub("", line)))]
    return " ".join(lines)[:_MAX_REASON_CHARACTERS] or (raised.splitlines()[0] if raised else None)


@contextmanager
def _captured() -> Iterator[Callable[[], str]]:
    """Send the process's stderr to a file meanwhile; what is not ONNX Runtime's goes on to stderr after."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def read() -> str:
            file.seek(0)
            return file.read().decode("utf-8", "replace")

        try:
            yield read
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            for line in read().splitlines(keepends=True):
                if "onnxruntime" not in line and _COLOUR.sub("", line).strip():
                    os.write(2, line.encode())
