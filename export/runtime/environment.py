"""Where something ran: versions, processor, threads, providers; what a number is worth without these is little."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["cores", "environment", "processor", "version_of"]

PACKAGES = (
    "pure-export",
    "torch",
    "safetensors",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "typer",
    "rich",
    "matplotlib",
    "scikit-learn",
    "pillow",
)
"""Distributions whose versions matter, in the order in which they are shown."""


def version_of(distribution: str) -> str | None:
    """Return an installed distribution's version, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """Return the processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """Describe the machine, the interpreter and the libraries, as plain data."""
    import torch  # what else stands here does not need it

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "processor": processor(),
        "cores": cores(),
        "torch_threads": torch.get_num_threads(),
        "python": sys.version.split()[0],
        "packages": {name: found for name in PACKAGES if (found := version_of(name)) is not None},
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
