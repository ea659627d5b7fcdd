"""What ONNX Runtime raises and says, as typed errors."""

from __future__ import annotations

import os
import re

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from export.errors import LoadError, UnsupportedOpError
from export.graph.functions.function_calls import read_calls
from export.graph.node_notes import CAST_HINT, unsupported

__all__ = ["ERRORS", "translated"]

ERRORS = (
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NotImplemented,
    state.RuntimeException,
    state.NoSuchFile,
    state.EPFail,
    RuntimeError,  # of the C++ library and of the bindings
    ValueError,  # of missing inputs, and UnicodeDecodeError of names and text
    IndexError,
    OverflowError,
    MemoryError,
)
"""What ONNX Runtime raises. The last five are caught around its own calls only."""

_NO_KERNEL = (
    re.compile(r"Could not find an implementation for (?P<kind>\w+)\(\d+\) node with name '(?P<name>[^']*)'"),
    re.compile(r"Provider type for (?P<kind>\w+) node with name '(?P<name>[^']*)' is not set"),  # none on either side
)


def translated(error: Exception, path: str | os.PathLike[str] | None) -> LoadError | UnsupportedOpError:
    """Turn ONNX Runtime's exception into a typed error."""
    text = str(error)
    found = next(filter(None, (pattern.search(text) for pattern in _NO_KERNEL)), None)
    if found:
        kind, name = found["kind"], found["name"]
        node = read_calls(path).find(name) if path is not None else None
        name, metadata = (node.name, node.metadata) if node else (name, {})
        dtype = metadata.get("dtype", "an unknown dtype")
        return unsupported(
            f"ONNX Runtime {onnxruntime.__version__} has no {kind} for {dtype} on this device (node {name!r}); "
            f"{CAST_HINT}; or choose another device",
            kind,
            metadata,
            dtype,
        )
    typed = re.search(
        r"Type '([^']*)' of input parameter \(([^)]*)\) of operator \((\w+)\) in node \(([^)]*)\) is invalid", text
    )
    if typed:
        dtype, _, kind, name = typed.groups()
        return unsupported(f"ONNX has no {kind} for {dtype} (node {name!r})", kind, {}, dtype)
    version = re.search(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)", text)
    if version:
        return LoadError(
            f"{'the model' if path is None else os.fspath(path)} has IR version {version[1]}, and ONNX Runtime "
            f"{onnxruntime.__version__} reads up to {version[2]}; pip install -U onnxruntime, or export it for less"
        )
    return LoadError(f"ONNX Runtime refused {'the model' if path is None else os.fspath(path)}: {text}")
