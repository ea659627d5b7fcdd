"""Compiles the stand-in from `standin.c` and from the names that ONNX Runtime's CUDA provider asks for.

What the provider needs is read from its own file, so neither NVIDIA's packages nor a driver are needed: every library
that it names and every symbol that it asks for is there, the calls that matter by hand and the others as functions that
return 0. Only gcc and nm are needed.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import onnxruntime

from export.runtime import shared_libraries

__all__ = ["MissingToolError", "StandIn", "build", "why_not"]

SOURCE = Path(__file__).with_name("standin.c")
PROVIDER = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
CALL = re.compile(r"_{0,2}(?:cuda|cublas|cublasLt|cudnn|curand|cufft|cu)[A-Z]\w*")
CUDNN, DRIVER = "libcudnn.so.9", "libcuda.so.1"
FLAGS = ("gcc", "-w", "-O1", "-shared", "-fPIC", "-std=gnu11")


class MissingToolError(RuntimeError):
    """What the stand-in needs and this machine lacks."""


@dataclasses.dataclass(frozen=True)
class StandIn:
    """A compiled stand-in.

    Attributes:
        preload: the libraries that have to be there before PyTorch brings the real ones.
        folder: where the loader finds the libraries that the provider names.
    """

    preload: tuple[Path, ...]
    folder: Path


def why_not() -> str:
    """Say what keeps the stand-in from being built here; an empty string if nothing does."""
    if not PROVIDER.exists():
        return f"this onnxruntime has no {PROVIDER.name}"
    absent = [tool for tool in ("gcc", "nm") if shutil.which(tool) is None]
    return f"there is no {' and no '.join(absent)} here" if absent else ""


@functools.cache
def build() -> StandIn:
    """Compile the stand-in, once for each version of its source and of ONNX Runtime.

    Raises:
        MissingToolError: if there is no compiler, or ONNX Runtime has no CUDA provider.
    """
    reason = why_not()
    if reason:
        raise MissingToolError(reason)
    known = hashlib.sha256(SOURCE.read_bytes() + Path(__file__).read_bytes() + onnxruntime.__version__.encode())
    folder = Path(tempfile.gettempdir()) / f"cuda-standin-{known.hexdigest()[:16]}"
    if not folder.exists():
        scratch = Path(tempfile.mkdtemp(prefix="cuda-standin-"))
        _compile(scratch)
        try:
            scratch.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(scratch)
    return StandIn((folder / "libstandin.so", folder / CUDNN), folder)


def _compile(folder: Path) -> None:
    """Write one library that is preloaded, cuDNN under its own name, and an empty one for each other name."""
    asked = _names("nm", "-D", "--undefined-only", str(PROVIDER))
    inside = set(re.findall(rb"(?<=\0)cudnn[A-Z]\w*(?=\0)", PROVIDER.read_bytes()))
    installed = Path(sysconfig.get_paths()["purelib"]).glob("nvidia/cudnn/lib/libcudnn*.so.9")
    cudnn = {name.decode() for name in inside} | _names("nm", "-D", "--defined-only", *map(str, sorted(installed)))
    _weak(folder / "cudnn.c", {name for name in cudnn if name.startswith("cudnn")})
    _weak(folder / "others.c", {name for name in asked if not name.startswith("cudnn")})
    (folder / "empty.c").write_text("int standin_empty;\n", encoding="utf-8")
    _gcc(folder / "libstandin.so", "libstandin.so", SOURCE, folder / "others.c")
    _gcc(folder / CUDNN, CUDNN, SOURCE, folder / "cudnn.c")
    _gcc(folder / DRIVER, DRIVER, SOURCE, folder / "others.c")
    for name in shared_libraries.needed(PROVIDER):
        if name.startswith("libcu") and not (folder / name).exists():
            _gcc(folder / name, name, folder / "empty.c")


def _names(*command: str) -> set[str]:
    if len(command) < 4:  # no file to look into
        return set()
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = (line.split()[-1].partition("@")[0] for line in listed.splitlines() if line.strip())
    return {name for name in names if CALL.fullmatch(name)}


def _weak(path: Path, names: set[str]) -> None:
    """Write functions that return 0 and, if they create something, give a handle; those of `standin.c` come first."""
    lines = ["#include <stdlib.h>"]
    for name in sorted(names):
        creates = re.fullmatch(r"[a-z]+(?:Lt)?\w*Create\w*", name) and "Graph" not in name
        inside = "if (handle) *handle = calloc(1, 4096); return 0;" if creates else "return 0;"
        lines.append(f"__attribute__((weak)) int {name}({'void **handle' if creates else ''}) {{ {inside} }}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _gcc(output: Path, name: str, *sources: Path) -> None:
    command = [*FLAGS, f"-Wl,-soname,{name}", "-o", str(output), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingToolError(f"gcc could not compile the stand-in: {done.stderr[:500]}")
