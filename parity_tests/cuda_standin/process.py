"""Starts a Python process with the stand-in, in which no session on CUDA can be run."""

from __future__ import annotations

import atexit
import functools
import json
import math
import os
import signal
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

WARM = "import export.compiler.jitted, export.graph.onnx_export, export.runtime.doctor, export.runtime.loading; "
"""What most pieces of code import."""


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
    known = {"CUDA_STANDIN_DEVICES": str(devices), "CUDA_STANDIN_FAULT": "", **(more or {})}
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    asked = {"code": code, "arguments": arguments, "environment": known, "seconds": math.ceil(timeout)}
    server.stdin.write(json.dumps(asked) + "\n")
    server.stdin.flush()
    done = subprocess.CompletedProcess([code, *arguments], **json.loads(server.stdout.readline()))
    if done.returncode == -signal.SIGALRM:
        raise subprocess.TimeoutExpired(code, timeout, done.stdout, done.stderr)
    return done


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Start the process that the others are forked from."""
    command = [sys.executable, "-c", f"{PRELUDE}{WARM}import parity_tests.cuda_standin.server as server; server.main()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    started = subprocess.Popen(command, env=environment(), cwd=ROOT, text=True, **pipes)
    atexit.register(_ended, started)
    return started


def _ended(started: subprocess.Popen[str]) -> None:
    """End the server."""
    started.communicate()
