"""Start a module on several processes of this machine, by torchrun or one by one, and wait for all of them."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

from parity_tests.sources import ROOT

__all__ = ["Ended", "processes", "torchrun"]


@dataclass(frozen=True)
class Ended:
    """One process that has ended.

    Attributes:
        code: Its exit status, negative for a signal.
        output: What it printed, errors included.
        time: When it ended, in seconds as `time.time` counts.
    """

    code: int
    output: str
    time: float


def environment() -> dict[str, str]:
    """Return this process's variables with the repository on the path, one thread a process, and no GPU."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def torchrun(count: int, module: str, *arguments: str, timeout: float = 600) -> Ended:
    """Run a module by torchrun on `count` processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", module]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout
    )
    return Ended(done.returncode, done.stdout + done.stderr, time.time())


def processes(count: int, module: str, *arguments: str, timeout: float = 300) -> list[Ended]:
    """Run a module on `count` processes that nothing watches over; those that are left after `timeout` are killed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", module, *arguments]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(count)]
        started = []
        for rank, file in enumerate(files):
            place = {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
            variables = {**environment(), **place}
            started.append(subprocess.Popen(command, cwd=ROOT, env=variables, stdout=file, stderr=file))
        try:
            ends = _awaited(started, timeout)
        finally:
            for process in started:
                process.kill()  # nothing, if it has ended
                process.wait()
        for file in files:
            file.seek(0)
        return [Ended(p.returncode, file.read(), end) for p, file, end in zip(started, files, ends, strict=True)]


def _awaited(started: Sequence["subprocess.Popen[bytes]"], timeout: float) -> list[float]:
    """Return when each process ended."""
    start, ends = time.monotonic(), dict[int, float]()
    while len(ends) < len(started):
        for at, process in enumerate(started):
            if at not in ends and process.poll() is not None:
                ends[at] = time.time()
        if time.monotonic() - start > timeout:
            for process in started:
                process.kill()
        time.sleep(0.02)
    return [ends[at] for at in range(len(started))]
