"""The doctor tells what is compiled in from what really loads, and names the missing library and the install line."""

import json
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
from typer.testing import CliRunner

from export.app import command_line
from export.runtime import doctor, sessions, shared_libraries


@pytest.fixture(scope="module")
def diagnosis() -> doctor.Diagnosis:
    return doctor.diagnose()


def installed(versions: dict[str, str | None]) -> Callable[[str], str | None]:
    """A stand-in for the look-up of versions, with some of the answers replaced."""
    original = doctor.version_of
    return lambda name: versions[name] if name in versions else original(name)


def test_this_installation_is_healthy(diagnosis: doctor.Diagnosis) -> None:
    assert diagnosis.healthy
    assert all(package.version and not package.problem for package in diagnosis.packages if package.needed)


def test_every_provider_that_is_compiled_in_is_tried(diagnosis: doctor.Diagnosis) -> None:
    assert [p.name for p in diagnosis.providers] == onnxruntime.get_available_providers()
    by_name = {p.name: p for p in diagnosis.providers}
    assert by_name[sessions.CPU].loads
    assert all(p.loads != bool(p.problem) for p in diagnosis.providers)


def test_cuda_loads_only_where_a_session_can_be_had(diagnosis: doctor.Diagnosis) -> None:
    cuda = [p for p in diagnosis.providers if p.name == sessions.CUDA]
    assert [p.loads for p in cuda] == [sessions.cuda_problem() is None for _ in cuda]
    assert diagnosis.auto.startswith("cuda" if cuda and cuda[0].loads else "cpu")


def test_a_provider_that_is_swapped_silently_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "cuda_problem", lambda: None)
    found = {p.name: p for p in doctor._providers()}
    if sessions.CUDA in found and doctor._torch_cuda().startswith("no device"):
        assert not found[sessions.CUDA].loads
        assert found[sessions.CUDA].problem


def test_a_missing_package_comes_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version_of", installed({"pillow": None}))
    found = doctor.diagnose()
    assert found.healthy  # the report alone needs it
    assert found.fixes == ("pip install 'pure-export[report]'",)
    monkeypatch.setattr(doctor, "version_of", installed({"onnxscript": None}))
    assert not doctor.diagnose().healthy


def test_both_flavours_together_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version_of", installed({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}))
    monkeypatch.setattr(doctor, "folder_of", lambda name: "/one/folder")
    found = doctor.diagnose()
    assert not found.healthy
    assert found.providers == ()
    assert any(fix.startswith("pip uninstall -y onnxruntime onnxruntime-gpu") for fix in found.fixes)
    result = CliRunner().invoke(command_line.app, ["doctor"])
    assert result.exit_code == 1
    assert "each breaks the other" in result.stdout


def test_a_library_that_only_a_package_is_missing_for_has_its_line() -> None:
    there, missing = doctor.Library(doctor.DRIVER, "/usr/lib/libcuda.so.1"), doctor.Library("libcurand.so.10", None)
    with_driver = doctor.Diagnosis({}, (), (), (there, missing), "", "")
    without = doctor.Diagnosis({}, (), (), (doctor.Library(doctor.DRIVER, None), missing), "", "")
    assert with_driver.fixes == ("pip install 'onnxruntime-gpu[cuda,cudnn]'",)
    assert without.fixes == ()


def test_needed_libraries_are_read_from_the_file(tmp_path: Path) -> None:
    text = tmp_path / "not.so"
    text.write_text("no library")
    assert shared_libraries.needed(text) == []
    shared = sorted((Path(onnxruntime.__file__).parent / "capi").glob("onnxruntime_pybind11_state*.so"))
    if shared and shared[0].read_bytes()[:6] == b"\x7fELF\x02\x01":
        assert any(name.startswith("libc.so") for name in shared_libraries.needed(shared[0]))


def test_libraries_are_found_where_the_loader_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libcurand.so.10").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    found = shared_libraries.locate(["libcurand.so.10", "libnothing.so.1"])
    assert found == {"libcurand.so.10": str(tmp_path / "libcurand.so.10"), "libnothing.so.1": None}


def test_the_command_prints_the_same_as_json(diagnosis: doctor.Diagnosis) -> None:
    result = CliRunner().invoke(command_line.app, ["doctor", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads(json.dumps(diagnosis.to_dict()))
    shown = CliRunner().invoke(command_line.app, ["doctor"])
    assert shown.exit_code == 0
    for name in onnxruntime.get_available_providers():
        assert name in shown.stdout
