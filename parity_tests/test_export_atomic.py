"""Killing an export at any moment leaves no file or a whole one; an unwritable path fails before the work."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
import torch

import export
from export.files import protobuf_wire
from pure_export_shared import TEMPORARY

ROOT = Path(__file__).resolve().parent.parent

EXPORT_LOOP = """
import sys, torch, export
weights = [torch.full((400, 400), float(i)) for i in range(6)]
def fn(x):
    for w in weights:
        x = (x @ w).relu()
    return x
export.to_onnx(lambda x: x + 1, (torch.ones(2),), sys.argv[1] + "-warm.onnx")
print("ready", flush=True)
while True:
    export.to_onnx(fn, (torch.ones(2, 400),), sys.argv[1])
"""

STOP_INSIDE = """
import os, signal, sys, torch, export
import pure_export_shared as writing
moment = sys.argv[2]
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "half written":
    class Half:
        def __init__(self, file): self.file = file
        def __enter__(self): return self
        def __exit__(self, *_): return None
        def write(self, content):
            self.file.write(content[: len(content) // 2]); self.file.flush(); die()
        def writelines(self, chunks): self.write(b"".join(chunks))
    writing.open = lambda *a: Half(open(*a))
elif moment == "before fsync": os.fsync = die
elif moment == "before replace": os.replace = die
elif moment == "after replace": writing._sync_folder = die
export.to_onnx(lambda x: x * 3 + 1, (torch.ones(2),), sys.argv[1])
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def whole_or_absent(path: Path) -> bool:
    """Whether the file exists; if it does it must load and run, and everything else must be a recognisable leftover."""
    for name in os.listdir(path.parent):
        assert name in (path.name, path.name + "-warm.onnx") or name.endswith(TEMPORARY), name
    if not path.exists():
        return False
    onnx.checker.check_model(onnx.load(path), full_check=True)
    export.load(path)
    return True


@pytest.mark.parametrize(
    ("moment", "older"),
    [("half written", True), ("before fsync", True), ("before replace", False), ("after replace", False)],
)
def test_a_kill_at_each_step_leaves_a_whole_file_or_none(moment: str, older: bool, tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    if older:
        export.to_onnx(lambda x: x * 2, (torch.ones(2),), path)
    with start(STOP_INSIDE, str(path), moment) as process:
        assert process.wait(120) == -signal.SIGKILL
    assert whole_or_absent(path) is (older or moment == "after replace")
    if path.exists():
        expected = 4.0 if moment == "after replace" else 2.0
        assert export.load(path)(torch.ones(2)).tolist() == [expected] * 2


def test_kills_at_random_moments_leave_a_whole_file_or_none(tmp_path: Path) -> None:
    moments = random.Random(0)
    seen = set()
    path = tmp_path / "f.onnx"
    for _ in range(3):
        process = start(EXPORT_LOOP, str(path))
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.05, 0.8))
        process.kill()
        process.wait()
        process.stdout.close()
        seen.add(whole_or_absent(path))
    assert True in seen


def test_a_failed_export_leaves_the_older_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    export.to_onnx(lambda x: x * 2, (torch.ones(2),), path)
    content = path.read_bytes()
    with pytest.raises(export.errors.RandomOpError):
        export.to_onnx(lambda x: x + torch.rand(2), (torch.ones(2),), path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["f.onnx"]


@pytest.mark.parametrize("name", ["missing/f.onnx", ".", "/proc/f.onnx"])
def test_a_path_that_cannot_be_written_fails_before_the_function_runs(name: str, tmp_path: Path) -> None:
    def never(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the function was run")

    with pytest.raises(export.errors.WriteError, match="cannot write"):
        export.to_onnx(never, (torch.ones(2),), tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_file_above_the_limit_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf_wire, "MAX_FILE_BYTES", 2**24 + 1000)
    args = (torch.ones(20, 20), torch.ones(2, 20))
    with pytest.raises(export.errors.WriteError, match="exceed 2 GB"):
        export.to_onnx(lambda w, x: x @ w, args, tmp_path / "f.onnx", bake=(0,), external=False)
    assert os.listdir(tmp_path) == []


def test_the_file_has_the_usual_permissions(tmp_path: Path) -> None:
    exported = export.to_onnx(lambda x: x * 2, (torch.ones(2),), tmp_path / "f.onnx")
    (tmp_path / "plain").write_text("")
    assert exported.path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert exported.size == exported.path.stat().st_size
