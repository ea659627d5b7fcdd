"""Which CUDA PyTorch and ONNX Runtime were built for, whether they match, and how one set of libraries serves both.

ONNX Runtime looks for CUDA's libraries beside itself and where the loader does. PyTorch brings them as packages, which
may lie in another folder, so they are loaded here from wherever they are; what is loaded once serves both.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import io
import re
import sys
from pathlib import Path
from types import ModuleType

import onnxruntime

from export.runtime import shared_libraries

__all__ = ["Builds", "asked_for", "builds", "cudnn_problem", "preload"]

CUDNN = "libcudnn.so.9"
"""ONNX Runtime asks for it by itself, when it first needs it: its file does not name it."""

_OURS = ("libcu", "libnv")
_DRIVER = "libcuda.so.1"


@dataclasses.dataclass(frozen=True)
class Builds:
    """The versions that two packages were built for; None where one has no CUDA or is not there.

    Attributes:
        onnxruntime: ONNX Runtime's CUDA.
        torch: PyTorch's CUDA.
        cudnn: PyTorch's cuDNN; ONNX Runtime needs 9.
    """

    onnxruntime: str | None
    torch: str | None
    cudnn: str | None

    @property
    def mismatch(self) -> str:
        """What does not match and what to do about it; an empty string if all is well or there is no CUDA."""
        if not self.onnxruntime or not self.torch:
            return ""
        own, theirs = self.onnxruntime.partition(".")[0], self.torch.partition(".")[0]
        if own != theirs:
            return (
                f"onnxruntime-gpu is built for CUDA {self.onnxruntime} and PyTorch for CUDA {self.torch}, whose "
                f"libraries do not serve the other; take the PyTorch built for CUDA {own} "
                "(https://pytorch.org/get-started), or give ONNX Runtime its own: "
                "pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
        wanted = CUDNN.rpartition(".")[2]
        if self.cudnn and self.cudnn.partition(".")[0] != wanted:
            return (
                f"onnxruntime-gpu needs cuDNN {wanted} and PyTorch brings cuDNN {self.cudnn}; "
                f"pip install 'nvidia-cudnn-cu{own}>={wanted}'"
            )
        return ""


def builds() -> Builds:
    """Return what each was built for; PyTorch is asked only where it is imported already."""
    return Builds(_own(), *_torch())


def asked_for() -> list[str]:
    """Name the libraries that ONNX Runtime's CUDA provider needs beyond the C library, the driver's first."""
    path = _folder() / "libonnxruntime_providers_cuda.so"
    names = [name for name in shared_libraries.needed(path) if name.startswith(_OURS)] if path.exists() else []
    return list(dict.fromkeys([_DRIVER, *names, CUDNN])) if names else []


def preload() -> None:
    """Load the CUDA libraries that PyTorch or the NVIDIA packages bring, so that ONNX Runtime finds them."""
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it cannot load
            onnxruntime.preload_dlls()
    for name, path in shared_libraries.locate(asked_for()).items():
        if path is not None and name != _DRIVER:
            with contextlib.suppress(OSError):  # the provider's own loading names what is missing
                ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


def cudnn_problem() -> str | None:
    """Say why PyTorch cannot use the cuDNN that is loaded; None if it can, or is not imported or has no CUDA."""
    torch = sys.modules.get("torch")
    if torch is None or torch.version.cuda is None:
        return None
    _, refusal = _cudnn(torch)
    if refusal:
        found = re.search(r"compiled\s+against \(([\d, ]+)\) but found runtime version \(([\d, ]+)\)", refusal)
        wanted, loaded = (part.replace(", ", ".") for part in found.groups()) if found else ("another", "this one")
        own = torch.version.cuda.partition(".")[0]
        return (
            f"PyTorch was built for cuDNN {wanted} and finds {loaded}, which it does not use; take the other one out "
            f"of LD_LIBRARY_PATH, or pip install --force-reinstall nvidia-cudnn-cu{own}"
        )
    return None


_refusals: dict[int, str] = {}
"""What a PyTorch said of its cuDNN, by its identity: it says so at the first question alone."""


def _cudnn(torch: ModuleType) -> tuple[int | None, str]:
    """Return the number of PyTorch's cuDNN, and why it does not use the one it finds."""
    try:
        number = torch.backends.cudnn.version()
    except RuntimeError as error:
        number = None
        _refusals[id(torch)] = str(error)
    refusal = _refusals.get(id(torch), "")
    return (None if refusal else number), refusal


def _folder() -> Path:
    return Path(onnxruntime.__file__).parent / "capi"


def _own() -> str | None:
    """Return ONNX Runtime's CUDA as it says it, otherwise the major version of the library that it asks for."""
    from onnxruntime.capi import build_and_package_info as info  # a module that the build writes

    said = getattr(info, "cuda_version", "") or ""
    if said:
        return str(said)
    found = [re.fullmatch(r"libcudart\.so\.(\d+)", name) for name in asked_for()]
    return next((match[1] for match in found if match), None)


def _torch() -> tuple[str | None, str | None]:
    torch = sys.modules.get("torch")
    if torch is None or torch.version.cuda is None:
        return None, None
    number, _ = _cudnn(torch)
    if number is None:
        return torch.version.cuda, None
    divisor = 10000 if number >= 90000 else 1000  # cuDNN 9.1.0 calls itself 90100, cuDNN 8.9.7 8907
    return torch.version.cuda, f"{number // divisor}.{number % divisor // 100}"
