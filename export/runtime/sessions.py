"""ONNX Runtime sessions: the device is chosen openly, numerics are fixed, refusals become typed errors."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from export.errors import ArgumentError, LoadError, ProviderError, UnsupportedOpError
from export.files.signature_leaves import Leaf, declared
from export.graph.function_calls import read_calls
from export.graph.node_notes import CAST_HINT, unsupported
from export.runtime import cuda_builds

__all__ = [
    "CPU",
    "CUDA",
    "DEVICES",
    "ERRORS",
    "SHAPE_OPS",
    "Choice",
    "Numerics",
    "choose",
    "cuda_problem",
    "interface",
    "open_session",
    "placement",
    "translated",
]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
DEVICES = ("auto", "cpu", "cuda")

SHAPE_OPS = frozenset(
    {"Shape", "Size", "Gather", "Concat", "Squeeze", "Unsqueeze", "Slice", "Cast", "Range", "Reshape"}
    | {"Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Floor", "Ceil", "ReduceProd"}
    | {"Constant", "ConstantOfShape", "Equal", "Where", "If", "Identity"}
)
"""Operators that may run on the CPU in a session on the GPU, because ONNX Runtime computes sizes there by design."""

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

SILENT = 4
"""Severity above which ONNX Runtime prints: fatal errors only, as every other reason is in the exception."""

onnxruntime.set_default_logger_severity(SILENT)


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which device a session runs on, and why; and whether it may round float32 products to TF32 there."""

    device: str
    why: str
    tf32: bool = False


@dataclasses.dataclass(frozen=True)
class Numerics:
    """What decides the last bits of a session's results.

    Attributes:
        tf32: whether CUDA may round float32 products to TF32.
        optimisation: ONNX Runtime's graph optimisation level.
        deterministic: whether only deterministic kernels are chosen.
        onnxruntime: its version.
        producer: versions that the file was written with.
    """

    tf32: bool
    optimisation: str
    deterministic: bool
    onnxruntime: str
    producer: dict[str, str]


@functools.cache
def cuda_problem() -> str | None:
    """Say what keeps ONNX Runtime from CUDA on this machine and how to get it; None if nothing does."""
    if CUDA not in onnxruntime.get_available_providers():
        return (
            f"this onnxruntime ({onnxruntime.__version__}) is built without CUDA; "
            "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
        )
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return (
            "the NVIDIA driver's library libcuda.so.1 is missing: there is no NVIDIA GPU, or its driver is not "
            "installed"
        )
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver finds no GPU (check nvidia-smi and CUDA_VISIBLE_DEVICES)"
    cuda_builds.preload()
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        for name in ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"):
            if (folder / name).exists():
                ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        missing = str(error).split(":")[0]
        mismatch = cuda_builds.builds().mismatch
        if mismatch:
            return f"{missing} cannot be loaded: {mismatch}"
        return (
            f"{missing} cannot be loaded; pip install 'onnxruntime-gpu[cuda,cudnn]', "
            "or the torch build for the same CUDA version"
        )
    return None


def choose(device: str, tf32: bool = False) -> Choice:
    """Turn "auto", "cpu" or "cuda" into a device.

    Args:
        device: the word.
        tf32: whether the GPU may round float32 products to TF32; a CPU has no such thing.

    Raises:
        ArgumentError: for another word.
        ProviderError: if CUDA was asked for and cannot be had, naming what is missing.
    """
    if device not in DEVICES:
        raise ArgumentError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if device == "cpu":
        return Choice("cpu", "asked for")
    problem = cuda_problem()
    if device == "cuda":
        if problem:
            raise ProviderError(
                f"device='cuda' cannot be had: {problem}. "
                "device='cpu' runs here; device='auto' takes the GPU where there is one."
            )
        return Choice("cuda", "asked for", tf32)
    if problem:
        return Choice("cpu", f"no CUDA: {problem}")
    return Choice("cuda", "CUDA loads and there is a GPU", tf32)


def open_session(
    model: str | os.PathLike[str] | bytes,
    choice: Choice,
    *,
    spinning: bool = True,
    path: str | os.PathLike[str] | None = None,
    weights: Mapping[str, Any] | None = None,
    cuda_graph: bool = False,
) -> onnxruntime.InferenceSession:
    """Create a session.

    Args:
        model: a file, or a serialised model.
        choice: the device.
        spinning: whether idle threads wait actively: faster calls, but in the way of other threads.
        path: the file that a serialised model comes from, with its data file beside it.
        weights: values, which have to live as long as the session, for tensors that the model says are in a data file.
        cuda_graph: whether a GPU records the first run and replays it; inputs and outputs must lie at fixed addresses.

    Raises:
        UnsupportedOpError: if the provider lacks an operator in the dtype that the file uses.
        ProviderError: if CUDA was chosen and a compute node would run on the CPU.
        LoadError: if ONNX Runtime refuses the file for another reason.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.use_deterministic_compute = True
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if isinstance(model, bytes) and path is not None:
        folder = str(Path(path).absolute().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    if weights:  # put in before the graph is optimised; add_initializer, by contrast, comes after constants are folded
        options.add_external_initializers(list(weights), list(weights.values()))
    providers: list[Any] = [CPU]
    if choice.device == "cuda":
        providers.insert(0, (CUDA, {"use_tf32": str(int(choice.tf32)), "enable_cuda_graph": str(int(cuda_graph))}))
    source, file = (model, path) if isinstance(model, bytes) else (os.fspath(model), model)
    try:
        # its fallback to the CPU would print to stdout, and run elsewhere than asked for
        session = onnxruntime.InferenceSession(source, options, providers=providers, enable_fallback=0)
    except ERRORS as error:
        raise translated(error, file) from error
    session.readable = read_calls(file).readable if file is not None else str
    if choice.device == "cuda":
        _check_placement(session)
    return session


def interface(session: onnxruntime.InferenceSession, path: str | os.PathLike[str]) -> tuple[list[Leaf], list[Leaf]]:
    """Return the inputs and outputs of a session.

    Raises:
        LoadError: if a name is no text.
    """
    try:
        inputs, outputs = (
            [declared(value.name, value.type, value.shape) for value in values]
            for values in (session.get_inputs(), session.get_outputs())
        )
    except ERRORS as error:
        raise translated(error, path) from error
    return inputs, outputs


def placement(session: onnxruntime.InferenceSession) -> dict[str, str]:
    """Return {node name: execution provider} for the nodes that the session runs, named as in the file."""
    return {name: provider for name, _, provider in _assigned(session)}


def _assigned(session: onnxruntime.InferenceSession) -> list[tuple[str, str, str]]:
    found = []
    try:
        for part in session.get_provider_graph_assignment_info():
            found += [(session.readable(node.name), node.op_type, part.ep_name) for node in part.get_nodes()]
    except ERRORS as error:  # such as a name that is no text
        raise translated(error, None) from error
    return found


def _check_placement(session: onnxruntime.InferenceSession) -> None:
    if CUDA not in session.get_providers():
        raise ProviderError(f"ONNX Runtime could not start CUDA: {cuda_problem() or 'no reason given'}")
    strays = [
        f"{name} ({kind})" for name, kind, provider in _assigned(session) if provider == CPU and kind not in SHAPE_OPS
    ]
    if strays:
        raise ProviderError(
            f"device='cuda' was chosen, but ONNX Runtime has no CUDA kernel for {len(strays)} of the nodes: "
            f"{', '.join(strays[:5])}. "
            "Load with device='cpu', or write these operations with others."
        )


def translated(error: Exception, path: str | os.PathLike[str] | None) -> LoadError | UnsupportedOpError:
    """Turn ONNX Runtime's exception into a typed error."""
    text = str(error)
    found = re.search(r"Could not find an implementation for (\w+)\((\d+)\) node with name '([^']*)'", text)
    if found:
        kind, _, name = found.groups()
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
