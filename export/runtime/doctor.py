"""What is installed, which execution providers really load, and what to install where one does not.

A package that is broken or missing must not keep the doctor from saying so: each is imported where it is looked at.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from export.runtime import shared_libraries
from export.runtime.environment import cores, processor, version_of

__all__ = ["DRIVER", "FLAVOURS", "Diagnosis", "Library", "diagnose", "folder_of"]

REQUIRED = ("torch", "safetensors", "numpy", "onnx", "onnx-ir", "onnxscript", "typer", "rich")
REPORT = ("matplotlib", "scikit-learn", "pillow")
FLAVOURS = ("onnxruntime", "onnxruntime-gpu")
MODULES = {"onnx-ir": "onnx_ir", "scikit-learn": "sklearn", "pillow": "PIL"}
DRIVER = "libcuda.so.1"
"""The one library that comes with the GPU's driver and not from a package."""


@dataclasses.dataclass(frozen=True)
class Package:
    """One distribution.

    Attributes:
        name: its name.
        version: the installed version, None if it is missing.
        problem: why it cannot be used, or an empty string.
        fix: the command that helps, or an empty string.
        needed: whether everything needs it; the others are for the report alone.
    """

    name: str
    version: str | None
    problem: str = ""
    fix: str = ""
    needed: bool = True


@dataclasses.dataclass(frozen=True)
class Provider:
    """One execution provider that ONNX Runtime was built with.

    Attributes:
        name: its name.
        loads: whether a session really started on it here.
        problem: why it did not, or an empty string.
        fix: what to install, or an empty string.
    """

    name: str
    loads: bool
    problem: str = ""
    fix: str = ""


@dataclasses.dataclass(frozen=True)
class Library:
    """One shared library that ONNX Runtime's GPU providers ask for.

    Attributes:
        name: its file name, version included.
        path: where it was found, None if nowhere.
    """

    name: str
    path: str | None


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    Attributes:
        system: {"python", "platform", "processor", "cores"}.
        packages: every distribution that the project uses.
        providers: every provider that is compiled in.
        libraries: what the GPU providers need.
        builds: which CUDA ONNX Runtime and PyTorch were built for, and what does not match.
        torch_cuda: what PyTorch says about CUDA.
        auto: what `device="auto"` chooses here, and why.
    """

    system: dict[str, Any]
    packages: tuple[Package, ...]
    providers: tuple[Provider, ...]
    libraries: tuple[Library, ...]
    torch_cuda: str
    auto: str
    builds: dict[str, str | None] = dataclasses.field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether exports, runs on the CPU and verdicts work here."""
        return not any(p.problem for p in self.packages if p.needed) and any(p.loads for p in self.providers)

    @property
    def fixes(self) -> tuple[str, ...]:
        """Every command that would help, without repetition."""
        found = [p.fix for p in self.packages] + [p.fix for p in self.providers]
        driver = any(library.name == DRIVER and library.path for library in self.libraries)
        if driver and any(library.path is None for library in self.libraries):
            found.append("pip install 'onnxruntime-gpu[cuda,cudnn]'")
        return tuple(dict.fromkeys(fix for fix in found if fix))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"healthy": self.healthy, **dataclasses.asdict(self), "fixes": list(self.fixes)}


def diagnose() -> Diagnosis:
    """Look at the installation; nothing is changed."""
    system = {"python": sys.version.split()[0], "platform": sys.platform, "processor": processor(), "cores": cores()}
    packages = tuple(_packages())
    runtime_works = not any(p.problem for p in packages if p.name in FLAVOURS)
    providers = tuple(_providers()) if runtime_works else ()
    found = tuple(_libraries()) if runtime_works else ()
    torch_cuda = _torch_cuda()
    builds = _builds() if runtime_works else {}
    auto = _auto() if runtime_works else "nothing: see the packages"
    return Diagnosis(system, packages, providers, found, torch_cuda, auto, builds)


def _packages() -> Iterator[Package]:
    for name in (*REQUIRED, *REPORT):
        needed = name in REQUIRED
        fix = "pip install pure-export" if needed else "pip install 'pure-export[report]'"
        problem = "not installed" if version_of(name) is None else _import_problem(MODULES.get(name, name))
        yield Package(name, version_of(name), problem, fix if problem else "", needed)
    versions = {name: version_of(name) for name in FLAVOURS}
    apart = all(versions.values()) and len({folder_of(name) for name in FLAVOURS}) == 2
    if all(versions.values()) and not apart:
        problem, fix = (
            "installed beside the other flavour, with which it shares a folder: each breaks the other",
            ("pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"),
        )
    elif not any(versions.values()):
        problem, fix = "not installed", "pip install pure-export"
    else:
        problem = _import_problem("onnxruntime")
        fix = "pip install --force-reinstall --no-deps onnxruntime-gpu" if problem else ""
    shown = [name for name in FLAVOURS if versions[name]] or ["onnxruntime-gpu"]
    for name in shown:
        yield Package(name, versions[name], problem, fix)


def folder_of(distribution: str) -> str:
    """Return the folder that a distribution's modules were installed to."""
    return os.path.realpath(str(metadata.distribution(distribution).locate_file("")))


def _import_problem(module: str) -> str:
    """Return why a module cannot be imported, or an empty string."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        lines = str(error).splitlines()
        return f"cannot be imported: {lines[0] if lines else type(error).__name__}"
    return ""


def _providers() -> Iterator[Provider]:
    """Start a session on each provider that is compiled in: what is listed need not load."""
    import onnxruntime  # may be missing or broken

    from export.runtime import sessions  # imports onnxruntime

    for name in onnxruntime.get_available_providers():
        problem, fix = "", ""
        if name == sessions.CUDA:
            problem = sessions.cuda_problem() or ""
        elif name != sessions.CPU:
            problem = _shared_library_problem(name)
        problem = problem or _session_problem(name)
        if ";" in problem and "pip " in problem:
            problem, _, fix = (part.strip() for part in problem.partition(";"))
        yield Provider(name, not problem, problem, fix)


def _shared_library_problem(provider: str) -> str:
    """Load a provider's own library, whose failure names what is missing."""
    import onnxruntime  # may be missing or broken

    short = provider.removesuffix("ExecutionProvider").lower()
    for path in (Path(onnxruntime.__file__).parent / "capi").glob(f"*onnxruntime_providers_{short}.*"):
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            return str(error).replace(str(path.parent) + os.sep, "")
    return ""


def _session_problem(provider: str) -> str:
    """Run a model of one node on the provider, and say what went wrong."""
    import numpy as np  # may be missing or broken
    import onnxruntime  # may be missing or broken

    from export.runtime import cuda_start, sessions  # import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = sessions.SILENT  # what matters is returned, not printed
    try:
        session = onnxruntime.InferenceSession(cuda_start.MODEL, options, providers=[provider], enable_fallback=0)
        (y,) = session.run(None, {"x": np.ones(1, dtype=np.float32)})
    except sessions.ERRORS as error:
        return cuda_start.explained(str(error)) or str(error).splitlines()[0]
    if session.get_providers()[0] != provider:
        reason = cuda_start.logged() if provider == sessions.CUDA else None
        return f"ONNX Runtime went to {session.get_providers()[0]} instead: {reason or 'it gave no reason'}"
    return "" if y.tolist() == [-1.0] else f"−1 came out as {y.tolist()}"


def _libraries() -> Iterator[Library]:
    """Name what ONNX Runtime's CUDA provider asks for beyond the C library, and where each lies."""
    from export.runtime import cuda_builds  # imports onnxruntime

    for name, found in shared_libraries.locate(cuda_builds.asked_for()).items():
        yield Library(name, found)


def _builds() -> dict[str, str | None]:
    from export.runtime import cuda_builds  # imports onnxruntime

    found = cuda_builds.builds()
    return {**dataclasses.asdict(found), "mismatch": found.mismatch or cuda_builds.cudnn_problem()}


def _torch_cuda() -> str:
    if version_of("torch") is None:
        return "PyTorch is not installed"
    import torch  # may be missing or broken

    with warnings.catch_warnings(record=True) as said:  # PyTorch says here what is wrong with a driver
        warnings.simplefilter("always")
        try:
            if torch.cuda.is_available():
                return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
            reason = "".join(str(warning.message) for warning in said)
        except (RuntimeError, AssertionError) as error:
            reason = str(error)
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return f"no device ({built})" + (f": {reason.splitlines()[0].partition('. ')[0]}" if reason else "")


def _auto() -> str:
    from export.runtime import sessions  # imports onnxruntime

    choice = sessions.choose("auto")
    return f"{choice.device} ({choice.why})"
