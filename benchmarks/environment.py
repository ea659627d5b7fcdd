"""What a timing depends on: the machine, the threads, the versions and the date."""

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

DISTRIBUTIONS = (
    *("pure-export", "torch", "torchvision", "numpy"),
    *("onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu"),
    *("opacus", "backpack-for-pytorch", "curvlinops-for-pytorch"),
)


def environment() -> dict[str, object]:
    """The environment as plain data, ready for JSON."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_count": os.cpu_count(),
        "usable_cpu_count": usable_cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "torch_interop_threads": torch.get_num_interop_threads(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions(),
    }


def cpu_model() -> str:
    """The processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cpu_count() -> int | None:
    """How many processors this process may run on, where the system tells it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def versions() -> dict[str, str]:
    """Versions of the distributions that are installed."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
