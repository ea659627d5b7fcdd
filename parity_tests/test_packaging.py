"""What the wheel holds, what it asks for, and that the pins fit it."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import export

FLAVOURS = {"onnxruntime", "onnxruntime-gpu"}
ENVIRONMENTS = {
    ("linux", "x86_64"): "onnxruntime-gpu",
    ("linux", "aarch64"): "onnxruntime",
    ("darwin", "arm64"): "onnxruntime",
    ("darwin", "x86_64"): "onnxruntime",
    ("win32", "AMD64"): "onnxruntime-gpu",
    ("win32", "ARM64"): "onnxruntime",
}


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode("utf-8"))


def requirements(metadata: Message) -> list[Requirement]:
    return [Requirement(line) for line in metadata.get_all("Requires-Dist")]


def test_the_wheel_holds_the_two_packages_the_module_they_share_and_the_plugin(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    (info,) = (name for name in tops if name.endswith(".dist-info"))
    assert tops == {"pure", "export", "pure_export_shared.py", "pure_export_pytest.py", info}
    suffixes = {Path(name).suffix for name in wheel.namelist() if not name.startswith(info)}
    assert suffixes <= {".py", ".typed", ".json", ".md", ".yml", ".css", ".js", ".svg"}, (
        f"files that the wheel need not carry: {suffixes}"
    )


def test_the_wheel_holds_every_source_file(wheel: zipfile.ZipFile, root: Path) -> None:
    sources = {p.relative_to(root).as_posix() for name in ("pure", "export") for p in (root / name).rglob("*.py")}
    assert "pure/__init__.py" in sources
    assert sources | {"pure/py.typed", "export/py.typed"} <= set(wheel.namelist())


def test_the_wheel_holds_command_and_licence(wheel: zipfile.ZipFile, root: Path) -> None:
    names = {name.partition(".dist-info/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
    entry_points = wheel.read(names["entry_points.txt"]).decode()
    assert "pure-export = export.app.command_line:main" in entry_points
    assert "[pytest11]\npure_export_pytest = pure_export_pytest" in entry_points
    assert wheel.read(names["licenses/LICENSE"]) == (root / "LICENSE").read_bytes()


def test_metadata(metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("pure-export", "0.1.0")
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"report", "models", "docs", "test", "dev", "peers"} == set(metadata.get_all("Provides-Extra"))


@pytest.mark.parametrize(("platform", "machine"), ENVIRONMENTS)
def test_exactly_one_onnxruntime_flavour(metadata: Message, platform: str, machine: str) -> None:
    environment = {"sys_platform": platform, "platform_machine": machine}
    for extra in ("", "report", "models", "test", "peers"):
        asked = [
            requirement.name
            for requirement in requirements(metadata)
            if requirement.name in FLAVOURS
            and (requirement.marker is None or requirement.marker.evaluate({**environment, "extra": extra}))
        ]
        assert asked == [ENVIRONMENTS[platform, machine]]


def test_no_dependency_is_an_address_or_a_development_tool(metadata: Message) -> None:
    always = {r.name for r in requirements(metadata) if r.marker is None or "extra" not in str(r.marker)}
    assert always == {"torch", "safetensors", "numpy", "onnx", "onnx-ir", "onnxscript", "typer", "rich"} | FLAVOURS
    assert all(requirement.url is None for requirement in requirements(metadata))


def test_every_pin_takes_the_oldest_python_that_the_project_takes(root: Path) -> None:
    """pip leaves out a release that asks for a newer patch of Python, and then finds none that fits the pin."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    oldest = f"{project['requires-python'].removeprefix('>=')}.0"
    pinned = re.findall(r"^([A-Za-z0-9._-]+)==", (root / "constraints.txt").read_text(), re.MULTILINE)
    asked = {
        distribution.metadata["Name"]: distribution.metadata["Requires-Python"] or ""
        for distribution in importlib.metadata.distributions()
        if normal(distribution.metadata["Name"]) in set(map(normal, pinned))
    }
    assert len(asked) > len(pinned) / 2
    assert {name: python for name, python in asked.items() if oldest not in SpecifierSet(python)} == {}


def test_constraints_are_exact_pins_that_fit_the_metadata(root: Path) -> None:
    lines = [line.split("#")[0].strip() for line in (root / "constraints.txt").read_text().splitlines()]
    pins = {}
    for line in filter(None, lines):
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.+]*)", line)
        assert match, f"not an exact pin: {line!r}"
        pins[normal(match[1])] = Version(match[2])
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["report"], *extras["models"], *extras["docs"], *extras["test"]]:
        requirement = Requirement(text)
        if normal(requirement.name) in {"pure-export", "onnxruntime"}:
            continue  # itself, and the flavour that the pinned platform does not use
        assert pins[normal(requirement.name)] in requirement.specifier, text


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


LOAD_ALONE = """
import sys
for name in ("torch", "pure", "onnx", "onnx_ir", "onnxscript", "safetensors", "typer"):
    sys.modules[name] = None
import numpy as np
import export
assert export.__file__.startswith(sys.argv[1]), export.__file__
x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
y = export.load(sys.argv[2], device="cpu")({"x": x})["y"]
assert np.allclose(y, np.tanh(2 * x), atol=1e-6)
try:
    export.verify
except ModuleNotFoundError as error:
    assert "pip install pure-export" in str(error), error
    print("loaded")
"""


def test_the_runtime_s_wheel_loads_a_file_without_pytorch(root: Path, tmp_path: Path) -> None:
    """`pure-export-runtime` asks for numpy and ONNX Runtime only, in the version of pure-export."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    done = subprocess.run([*command, str(root / "runtime")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        opened.extractall(tmp_path / "site")
    (info,) = (tmp_path / "site").glob("*.dist-info")
    found = Parser().parsestr((info / "METADATA").read_text(encoding="utf-8"))
    whole = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (found["Name"], found["Version"]) == ("pure-export-runtime", whole["version"])
    asked = {(r.name, str(r.specifier), str(r.marker)) for r in requirements(found)}
    assert {name for name, _, _ in asked} == {"numpy", *FLAVOURS}
    assert asked <= {(r.name, str(r.specifier), str(r.marker)) for r in map(Requirement, whole["dependencies"])}
    export.to_onnx(lambda batch: {"y": torch.tanh(2 * batch["x"])}, ({"x": torch.ones(3, 4)},), tmp_path / "f.onnx")
    script = [sys.executable, "-c", LOAD_ALONE, str(tmp_path / "site"), str(tmp_path / "f.onnx")]
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(script, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert ran.stdout == "loaded\n", ran.stderr
