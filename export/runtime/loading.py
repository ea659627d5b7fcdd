"""`load`: an ONNX file as a Python function, in a process that needs neither torch nor the function's source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from export.files import protobuf_wire, splicing, stored_tensors
from export.files.checkpoint import matched
from export.files.opening import open_model
from export.files.tensor_values import as_array, to_ortvalue
from export.runtime import sessions
from export.runtime.loaded_file import Loaded

__all__ = ["load", "open_file"]


def load(
    path: str | os.PathLike[str],
    device: str = "auto",
    *,
    weights: Mapping[str, Any] | None = None,
    tf32: bool = False,
    check: bool = True,
    gpu_mem_limit: int | None = None,
) -> Loaded:
    """Load an ONNX file as a function.

    Args:
        path: a file that `to_onnx` wrote, or any other ONNX file (which takes and gives tensors by name).
        device: "cpu", "cuda" or "cuda:1" (raise if they cannot be had) or "auto" (the first GPU where CUDA loads;
            `f.describe()` says why).
        weights: other tensors in place of those inside the file, which itself stays: {argument: tree} for baked
            arguments, as for `replace_weights`. They are copied.
        tf32: whether a GPU may round the factors of float32 products to TF32: faster, with errors of 1e-3 instead of
            1e-6. `f.numerics.tf32` says whether it does.
        check: whether a file with a digest inside, as `to_onnx`, `quantize` and `replace_weights` write it, is compared
            with that digest, its data file included. False takes a file that another program changed on purpose.
        gpu_mem_limit: bytes that ONNX Runtime's arena may take on a GPU, which leaves the rest to PyTorch; None for as
            many as there are. What kernels use beside the arena, such as cuDNN's workspace, is not counted.

    Returns:
        The function: `f(*args)` with the pytrees of the export, baked arguments left out.

    Raises:
        ArgumentError: if `weights` do not fit.
        LoadError: if there is no such file, or ONNX Runtime refuses it.
        DataFileError: if the file that holds its large tensors is missing or cut short.
        DamagedFileError: if it is not as it was written; the message names what differs.
        NotAnOnnxFileError: if it is not an ONNX model.
        ProviderError: if CUDA was asked for and something is missing.
        UnsupportedOpError: if ONNX Runtime lacks an operator in the file's dtype on that device.
    """
    return open_file(path, device, weights=weights, tf32=tf32, check=check, gpu_mem_limit=gpu_mem_limit)


def open_file(
    path: str | os.PathLike[str],
    device: str,
    *,
    spinning: bool = True,
    weights: Mapping[str, Any] | None = None,
    variant: bytes | None = None,
    tf32: bool = False,
    check: bool = True,
    by_name: bool = False,
    gpu_mem_limit: int | None = None,
) -> Loaded:
    """Load a file as `load` does.

    Args:
        path: the file.
        device: as for `load`.
        spinning: whether its threads wait actively; without it they leave the processor to others between calls.
        weights: as for `load`.
        variant: a changed model, serialised, to run in the file's place with the file's data beside it.
        tf32: as for `load`.
        check: as for `load`.
        by_name: whether the function takes and gives tensors by name even if `to_onnx` wrote the file.
        gpu_mem_limit: as for `load`.
    """
    opened = open_model(path, check=check)
    choice = sessions.choose(device, tf32, gpu_mem_limit)
    if weights is not None:
        new = matched(path, opened.call, opened.tensors, weights)
        # ONNX Runtime drops the others at once, and would not find them.
        read = stored_tensors.read_by_nodes(path, opened.header)
        values = {name: value for name, value in new.items() if name in read}
        session = _with_weights(path, opened.tensors, values, choice, spinning)
    elif variant is not None:
        session = sessions.open_session(variant, choice, spinning=spinning, path=path)
    else:
        session = sessions.open_session(path, choice, spinning=spinning)
    again = None
    if weights is None and variant is None:
        again = partial(
            open_file,
            os.path.abspath(path),
            device,
            spinning=spinning,
            tf32=tf32,
            check=check,
            by_name=by_name,
            gpu_mem_limit=gpu_mem_limit,
        )
    return Loaded(Path(path), session, choice, None if by_name else opened.call, again=again)


def _with_weights(
    path: str | os.PathLike[str],
    tensors: Mapping[str, stored_tensors.Stored],
    given: Mapping[str, Any],
    choice: sessions.Choice,
    spinning: bool,
) -> onnxruntime.InferenceSession:
    """Open a session of the file's graph with other tensors, which go into memory instead of a copy of the file."""
    values = {
        name: to_ortvalue(np.array(as_array(value, tensors[name].dtype)), tensors[name].dtype, "cpu")
        for name, value in given.items()
    }
    with protobuf_wire.mapped(path) as data:
        absent = {
            name: splicing.message(data, tensors[name], splicing.outside("given at load", 0, tensors[name].nbytes))
            for name in given
        }
        model = b"".join(chunk for piece in splicing.spliced(data, tensors, absent) for chunk in piece.chunks())
    session = sessions.open_session(model, choice, spinning=spinning, path=path, weights=values)
    session.given_weights = values  # ONNX Runtime does not keep them alive
    return session
