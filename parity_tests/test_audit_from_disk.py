"""An audit of parameters that lie on disk takes memory for a few blocks, not for the network.

The limit of memory is that of a control group, which counts what a process holds and lets the system drop the pages of
a mapped file, as on a machine that has no more. `ulimit -v` and RLIMIT_DATA count the mapping itself, read or not.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import pure

MIB = 128
"""Size of the network's parameters."""

PROGRAM = """
import os, sys, threading, torch, pure
from pure import flow

def own():
    status = open("/proc/self/status").read()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024

def net(width, depth):
    return pure.Sequential(*[pure.Residual(pure.Linear(width, width, bias=False)) for _ in range(depth)])

path, copied, group = sys.argv[1], sys.argv[2] == "copied", sys.argv[3:]
x = torch.ones(4, 512)
small, _ = net(8, 3).init(torch.Generator())
flow.audit(net(8, 3), small, torch.ones(2, 8))
before, most, ended = own(), [0.0], threading.Event()

def watch():
    while not ended.wait(0.002):
        most[0] = max(most[0], own() - before)

thread = threading.Thread(target=watch)
thread.start()
if group:  # from here on what is allocated or read counts
    with open(group[0], "w") as procs:
        procs.write(str(os.getpid()))
params = pure.load(path)
if copied:  # without reading the file, whose pages the system would drop and read again for minutes before it gives up
    params = pure.tree.tree_map(lambda leaf: torch.full(leaf.shape, 0.1), params)
found = flow.audit(net(512, 128), params, x, deletions=1, stations=1)
ended.set()
thread.join()
print(len(found.blocks), most[0])
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "params.safetensors"
    weight = torch.eye(512) * 0.1
    pure.save({str(layer): {"branch": {"weight": weight}} for layer in range(128)}, path)
    assert path.stat().st_size >= MIB * 2**20
    return path


def audited(file: Path, how: str) -> tuple[int, float]:
    command = [sys.executable, "-c", PROGRAM, str(file), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    blocks, most = done.stdout.split()
    return int(blocks), float(most)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory by kind is known on Linux only")
def test_a_network_of_four_times_the_memory_that_an_audit_takes(file: Path) -> None:
    blocks, most = audited(file, "mapped")
    assert blocks == 128
    assert most < MIB / 4
    assert audited(file, "copied")[1] > MIB, "what it takes if the parameters are in memory"


@contextlib.contextmanager
def control_group(limit: int) -> Iterator[Path]:
    """Make a control group of a limit of memory in bytes, by either version of Linux's interface."""
    root = Path("/sys/fs/cgroup")
    first = root / "memory" / "memory.limit_in_bytes"
    folder = (first.parent if first.exists() else root) / f"pure-export-test-{os.getpid()}"
    try:
        if not first.exists() and "memory" not in (root / "cgroup.subtree_control").read_text(encoding="utf-8").split():
            raise OSError("memory is not controlled")
        folder.mkdir()
        name = "memory.limit_in_bytes" if first.exists() else "memory.max"
        (folder / name).write_text(str(limit), encoding="utf-8")
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield folder
    finally:
        for _ in range(50):  # until the process has left it
            try:
                folder.rmdir()
            except OSError:
                time.sleep(0.1)
            else:
                break


def under_limit(file: Path, how: str, limit_mib: int) -> int:
    """Return the exit status of an audit that may hold so much memory."""
    with file.open("rb") as opened:  # pages that are in memory already would be another group's
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with control_group(limit_mib * 2**20) as group:
        command = [sys.executable, "-c", PROGRAM, str(file), how, str(group / "cgroup.procs")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode == 0:
        assert done.stdout.split()[0] == "128"
    return done.returncode


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_a_network_of_twice_the_limit_of_memory_is_audited_from_disk(file: Path) -> None:
    assert under_limit(file, "mapped", MIB // 2) == 0
    assert under_limit(file, "copied", MIB // 2) == -9, "in memory it does not fit, so the system ends the process"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
def test_a_file_beyond_the_address_space_is_a_typed_error(file: Path) -> None:
    code = (
        "import resource, sys, pure; resource.setrlimit(resource.RLIMIT_DATA, (2**20, 2**20))\n"
        "try: pure.load(sys.argv[1])\n"
        "except pure.errors.SaveError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, timeout=300)
    assert "address space" in done.stdout, done.stderr
