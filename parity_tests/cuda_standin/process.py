"""Starts a Python process with the stand-in, in which no session on CUDA can be run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from parity_tests.cuda_standin.build import build

__all__ = ["EXIT_COMPUTED", "python"]

EXIT_COMPUTED = 97
"""How a process ends that let the stand-in compute."""

ROOT = Path(__file__).parents[2]

PRELUDE = "import torch, export; import parity_tests.cuda_standin.guard as guard; guard.install(); "


def environment(devices: int = 1, **more: str) -> dict[str, str]:
    """Return the environment of a process on the stand-in."""
    standin = build()
    known = dict(os.environ)
    known.pop("CUDA_VISIBLE_DEVICES", None)
    path = os.pathsep.join(filter(None, (str(standin.folder), known.get("LD_LIBRARY_PATH"))))
    return known | {
        "LD_PRELOAD": " ".join(map(str, standin.preload)),
        "LD_LIBRARY_PATH": path,
        "CUDA_STANDIN_DEVICES": str(devices),
        **more,
    }


def python(
    code: str, *arguments: str, devices: int = 1, timeout: float = 120, more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose CUDA is the stand-in, and return how it ended.

    Args:
        code: what to run, after the guard is in place.
        arguments: its `sys.argv[1:]`.
        devices: how many devices the stand-in has.
        timeout: seconds.
        more: further variables of the environment.
    """
    command = [sys.executable, "-c", PRELUDE + code, *arguments]
    known = environment(devices, **(more or {}))
    return subprocess.run(command, env=known, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout)
