"""CUDA versions that do not match are named, and libraries that lie elsewhere are found; two flavours may lie apart."""

import ctypes
import sys
import types
from pathlib import Path

import onnxruntime
import pytest

from export.runtime import cuda_builds, doctor, sessions
from export.runtime.cuda_builds import Builds


@pytest.mark.parametrize(
    ("own", "torch", "cudnn", "parts"),
    [
        ("13.0", "13.2", "9.26", ()),
        ("13.0", None, None, ()),
        (None, "13.0", "9.1", ()),
        ("12.8", "13.0", "9.1", ("CUDA 12.8", "CUDA 13.0", "built for CUDA 12 ", "onnxruntime-gpu[cuda,cudnn]")),
        ("13.0", "12.6", "9.1", ("CUDA 13.0", "CUDA 12.6", "built for CUDA 13 ")),
        ("12.8", "12.1", "8.9", ("needs cuDNN 9", "brings cuDNN 8.9", "nvidia-cudnn-cu12>=9")),
    ],
)
def test_what_does_not_match_is_said_with_what_to_do(
    own: str | None, torch: str | None, cudnn: str | None, parts: tuple[str, ...]
) -> None:
    said = Builds(own, torch, cudnn).mismatch
    assert bool(said) == bool(parts)
    assert all(part in said for part in parts), said


def fake_torch(cuda: str | None, cudnn: int | None) -> types.SimpleNamespace:
    backends = types.SimpleNamespace(cudnn=types.SimpleNamespace(version=lambda: cudnn))
    return types.SimpleNamespace(version=types.SimpleNamespace(cuda=cuda), backends=backends)


def test_builds_are_what_the_packages_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, text in ((91900, "9.19"), (90100, "9.1"), (8907, "8.9"), (None, None)):
        monkeypatch.setitem(sys.modules, "torch", fake_torch("13.0", number))  # type: ignore[arg-type]
        assert (cuda_builds.builds().torch, cuda_builds.builds().cudnn) == ("13.0", text)
    monkeypatch.setitem(sys.modules, "torch", fake_torch(None, None))  # type: ignore[arg-type]
    assert cuda_builds.builds().torch is None
    monkeypatch.delitem(sys.modules, "torch")
    assert cuda_builds.builds().torch is None


def test_a_package_that_does_not_say_is_read_from_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxruntime.capi import build_and_package_info as info

    monkeypatch.delattr(info, "cuda_version", raising=False)
    monkeypatch.setattr(cuda_builds, "asked_for", lambda: ["libcublas.so.13", "libcudart.so.13"])
    assert cuda_builds.builds().onnxruntime == "13"
    monkeypatch.setattr(cuda_builds, "asked_for", list)
    assert cuda_builds.builds().onnxruntime is None


def test_libraries_in_another_folder_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "elsewhere" / "nvidia" / "cu13" / "lib"
    folder.mkdir(parents=True)
    for name in ("libcublas.so.13", "libcudnn.so.9", "libcuda.so.1"):
        (folder / name).write_text("no library")
    loaded: list[str] = []
    monkeypatch.setattr(cuda_builds, "asked_for", lambda: ["libcuda.so.1", "libcublas.so.13", "libcudnn.so.9"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load everything"), raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "elsewhere")])
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)

    def load(path: str, mode: int = 0) -> None:
        loaded.append(path)
        raise OSError("as a broken file would")

    monkeypatch.setattr(ctypes, "CDLL", load)
    cuda_builds.preload()
    assert loaded == [str(folder / "libcublas.so.13"), str(folder / "libcudnn.so.9")]  # the driver is not preloaded


class Driver:
    """A driver that has one GPU."""

    def __init__(self, path: str, mode: int = 0) -> None:
        if "providers_cuda" in path:
            raise OSError("libcublas.so.12: cannot open shared object file: No such file or directory")

    def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's own name
        return 0

    def cuDeviceGetCount(self, count: object) -> int:  # noqa: N802
        count._obj.value = 1  # type: ignore[attr-defined]
        return 0


@pytest.mark.parametrize("matching", [True, False])
def test_a_library_that_does_not_load_is_named_with_the_versions(
    matching: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    capi = tmp_path / "capi"
    capi.mkdir()
    (capi / "libonnxruntime_providers_cuda.so").touch()
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [sessions.CUDA, sessions.CPU])
    monkeypatch.setattr(ctypes, "CDLL", Driver)
    monkeypatch.setattr(cuda_builds, "preload", lambda: None)
    monkeypatch.setattr(cuda_builds, "builds", lambda: Builds("12.8", "12.6" if matching else "13.0", "9.1"))
    said = sessions.cuda_problem.__wrapped__() or ""
    assert said.startswith("libcublas.so.12 cannot be loaded")
    assert ("and PyTorch for CUDA 13.0" in said) != matching
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in said


def test_two_flavours_in_two_folders_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    original = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: "1.31.1" if name in doctor.FLAVOURS else original(name))
    folders = {"onnxruntime": "/a", "onnxruntime-gpu": "/b"}
    monkeypatch.setattr(doctor, "folder_of", folders.__getitem__)
    assert doctor.diagnose().healthy
    monkeypatch.setattr(doctor, "folder_of", lambda name: "/a")
    assert not doctor.diagnose().healthy


def test_the_doctor_shows_both_builds() -> None:
    found = doctor.diagnose()
    assert found.builds.keys() == {"onnxruntime", "torch", "cudnn", "mismatch"}
    assert found.to_dict()["builds"] == found.builds
    if "libcudart.so.13" in [library.name for library in found.libraries]:
        assert (found.builds["onnxruntime"] or "").startswith("13")
