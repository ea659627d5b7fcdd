"""ONNX Runtime sessions: the device is chosen openly, numerics are fixed, refusals become typed errors."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime

from export.errors import ArgumentError, ProviderError
from export.files.signature_leaves import Leaf, declared
from export.graph.functions.function_calls import read_calls
from export.runtime import cuda_builds, cuda_start
from export.runtime.onnxruntime_errors import ERRORS, translated
from export.runtime.placement import CPU, CUDA, placement, raise_unless_on_cuda
from export.runtime.saved_graph import save_to, saved_graph

if TYPE_CHECKING:
    from export.devices.size_flow import Flow

__all__ = [
    "CPU",
    "CUDA",
    "DEVICES",
    "ERRORS",
    "Choice",
    "Numerics",
    "choose",
    "cuda_problem",
    "gpus",
    "interface",
    "on_gpu",
    "open_session",
    "placement",
    "session_options",
    "translated",
]

DEVICES = ("auto", "cpu", "cuda")

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

SILENT = 4
"""Severity above which ONNX Runtime prints: fatal errors only, as every other reason is in the exception."""

onnxruntime.set_default_logger_severity(SILENT)


@dataclasses.dataclass(frozen=True)
class Choice:
    """Where a session runs.

    Attributes:
        device: "cpu" or "cuda".
        why: why there.
        tf32: whether it may round float32 products to TF32 there.
        index: which GPU.
        gpu_mem_limit: bytes that the session may take there; None for as many as there are.
        stream: the address of the CUDA stream that its kernels are queued on; None for one of its own.
    """

    device: str
    why: str
    tf32: bool = False
    index: int = 0
    gpu_mem_limit: int | None = None
    stream: int | None = None

    @property
    def place(self) -> str:
        """The device as PyTorch writes it: "cpu", "cuda" for the first GPU, "cuda:1" for the second."""
        return f"{self.device}:{self.index}" if self.index else self.device

    def provider_options(self, *, cuda_graph: bool) -> dict[str, str]:
        """Return the options of ONNX Runtime's CUDA provider."""
        options = {
            "device_id": str(self.index),
            "use_tf32": str(int(self.tf32)),
            "enable_cuda_graph": str(int(cuda_graph)),
        }
        if self.gpu_mem_limit is not None:  # growing by powers of two would overshoot
            options |= {"gpu_mem_limit": str(self.gpu_mem_limit), "arena_extend_strategy": "kSameAsRequested"}
        if self.stream is not None:
            options["user_compute_stream"] = str(self.stream)
        return options


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
        driver = ctypes.CDLL(_DRIVER)
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
    with on_gpu(Choice("cuda", "a trial")):
        return cuda_start.problem()


def gpus() -> int:
    """Return how many GPUs the driver finds; 0 without a driver."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return 0 if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


@contextmanager
def on_gpu(choice: Choice) -> Iterator[None]:
    """Leave PyTorch's current GPU as it is: ONNX Runtime makes its own the thread's current one and leaves it so."""
    torch = sys.modules.get("torch")
    fresh = torch is None or torch.version.cuda is None or not (choice.index or torch.cuda.is_initialized())
    if choice.device == "cpu" or torch is None or fresh:  # a PyTorch that begins later begins on the first GPU
        yield
        return
    with torch.cuda.device(choice.index):
        yield


def choose(device: str, tf32: bool = False, gpu_mem_limit: int | None = None) -> Choice:
    """Turn "auto", "cpu", "cuda" or "cuda:1" into a device.

    Args:
        device: the word.
        tf32: whether the GPU may round float32 products to TF32; a CPU has no such thing.
        gpu_mem_limit: bytes that a session may take on the GPU; None for as many as there are.

    Raises:
        ArgumentError: for another word, or a limit that is no number of bytes.
        ProviderError: if CUDA was asked for and cannot be had, naming what is missing.
    """
    asked = re.fullmatch(r"cuda:(\d+)", device) if isinstance(device, str) else None
    if device not in DEVICES and asked is None:
        raise ArgumentError(f"device must be one of {', '.join(DEVICES)}, got {device!r}; cuda:1 is the second GPU")
    if gpu_mem_limit is not None and (not isinstance(gpu_mem_limit, int) or gpu_mem_limit < 1):
        raise ArgumentError(f"gpu_mem_limit must be a number of bytes, such as 4 * 2**30, got {gpu_mem_limit!r}")
    if device == "cpu":
        return Choice("cpu", "asked for")
    problem = cuda_problem()
    if device != "auto":
        if problem:
            raise ProviderError(
                f"device={device!r} cannot be had: {problem}. "
                "device='cpu' runs here; device='auto' takes the GPU where there is one."
            )
        index = int(asked[1]) if asked else 0
        if index and index >= gpus():
            raise ProviderError(
                f"device={device!r} cannot be had: the NVIDIA driver finds {gpus()} GPU{'s' * (gpus() != 1)}, counted "
                "from cuda:0 (CUDA_VISIBLE_DEVICES may hide others)"
            )
        return Choice("cuda", "asked for", tf32, index, gpu_mem_limit)
    if problem:
        return Choice("cpu", f"no CUDA: {problem}")
    return Choice("cuda", "CUDA loads and there is a GPU", tf32, 0, gpu_mem_limit)


def open_session(
    model: str | os.PathLike[str] | bytes,
    choice: Choice,
    *,
    spinning: bool = True,
    path: str | os.PathLike[str] | None = None,
    weights: Mapping[str, Any] | None = None,
    cuda_graph: bool = False,
    in_file_order: bool = False,
    threads: int = 0,
    saved: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Create a session.

    Args:
        model: a file, or a serialised model.
        choice: the device.
        spinning: whether idle threads wait actively: faster calls, but in the way of other threads.
        path: the file that a serialised model comes from, with its data file beside it.
        weights: values, which have to live as long as the session, for tensors that the model says are in a data file.
        cuda_graph: whether a GPU records the first run and replays it; inputs and outputs must lie at fixed addresses.
        in_file_order: whether a graph that ONNX Runtime has optimised runs as it is, its nodes in the model's order.
        threads: how many threads share the work of a node; 0 for one on each core.
        saved: a file to write the optimised graph to.

    Raises:
        UnsupportedOpError: if the provider lacks an operator in the dtype that the file uses.
        ProviderError: if CUDA was chosen and a compute node would run on the CPU.
        LoadError: if ONNX Runtime refuses the file for another reason.
    """
    source, file = (model, path) if isinstance(model, bytes) else (os.fspath(model), model)
    options = session_options(choice, source, path, spinning, weights)
    options.intra_op_num_threads = threads
    if in_file_order:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if saved is not None:
        save_to(options, saved)
    providers: list[Any] = [CPU]
    if choice.device == "cuda":
        providers.insert(0, (CUDA, choice.provider_options(cuda_graph=cuda_graph)))
    try:
        with on_gpu(choice):  # its fallback to the CPU would print to stdout, and run elsewhere than asked for
            session = onnxruntime.InferenceSession(source, options, providers=providers, enable_fallback=0)
    except ERRORS as error:
        reason = cuda_start.explained(str(error)) if choice.device == "cuda" else None
        if reason:
            raise ProviderError(f"ONNX Runtime could not start CUDA on {choice.place}: {reason}") from error
        raise translated(error, file) from error
    session.readable = read_calls(file).readable if file is not None else str
    if choice.device == "cuda":
        if CUDA not in session.get_providers():
            reason = cuda_problem() or cuda_start.logged(choice.index) or "it gave no reason"
            raise ProviderError(f"ONNX Runtime could not start CUDA: {reason}")
        plain = choice.provider_options(cuda_graph=False)
        with on_gpu(choice):
            raise_unless_on_cuda(
                session,
                source,
                lambda: _optimised(source, session_options(choice, source, path, spinning, weights), plain),
            )
    return session


def session_options(
    choice: Choice,
    source: str | bytes,
    path: str | os.PathLike[str] | None = None,
    spinning: bool = True,
    weights: Mapping[str, Any] | None = None,
) -> onnxruntime.SessionOptions:
    """Return the options that a session has here; the arguments are those of `open_session`."""
    options = onnxruntime.SessionOptions()
    if choice.device == "cpu":
        # A pattern, planned in the first run, is one block beside what that run took; a dead buffer that waits for a
        # later value of its shape is lost to all others. The arena finds the same memory without either.
        options.enable_mem_pattern = options.enable_mem_reuse = False
    options.log_severity_level = SILENT
    options.use_deterministic_compute = True
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if isinstance(source, bytes) and path is not None:
        folder = str(Path(path).absolute().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    if weights:  # put in before the graph is optimised; add_initializer, by contrast, comes after constants are folded
        options.add_external_initializers(list(weights), list(weights.values()))
    return options


def _optimised(source: str | bytes, options: onnxruntime.SessionOptions, provider_options: dict[str, str]) -> Flow:
    """Return the nodes of the graph that ONNX Runtime makes, which it only writes to a file, weights aside."""
    from export.devices import size_flow  # brings the onnx package, which sessions do without

    with saved_graph() as path:
        save_to(options, path)
        onnxruntime.InferenceSession(source, options, providers=[(CUDA, provider_options), CPU], enable_fallback=0)
        return size_flow.data_sources(size_flow.skeleton(path))


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
