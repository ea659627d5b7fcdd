"""Imports point one way, from tests and benchmarks to `export` to `pure`, and each needs only what it says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from parity_tests.import_graph import Arrow, arrows, circles, files_by_folder, too_long, too_wide
from parity_tests.sources import ROOT, imports, module_name, parse, python_files

SHARED = "pure_export_shared"
FORBIDDEN = {
    "pure": {"export", "benchmarks", "parity_tests", "examples"},
    "export": {"benchmarks", "parity_tests", "examples"},
}

ROWS_OF_ONE_KIND = {
    "pure/layers": "one kind of layer a file",
    "pure/catalogue": "one section of the table a file",
    "export/ops": "one family of operators a file",
}
"""Folders that may hold more files than others, and why."""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def top(module: str) -> str:
    return module.partition(".")[0]


def run(code: str) -> str:
    """Runs code in a fresh interpreter at the repository root, and returns what it printed."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_no_import_points_back(package: str) -> None:
    files = python_files(package)
    assert files
    back = [
        f"{relative(f)}:{i.line} {i.module}" for f in files for i in imports(f) if top(i.module) in FORBIDDEN[package]
    ]
    assert not back, back


def test_nothing_imports_in_a_circle() -> None:
    """Deferred imports count, and so do those for types: a circle that is put off is one."""
    found = arrows("pure", "export")
    assert len(found) > 500
    rings = circles(found)
    inside = [
        f"{a.source}:{a.line} → {a.target} ({a.kind})"
        for ring in rings
        for a in found
        if a.source in ring and a.target in ring
    ]
    assert not rings, inside


def test_a_circle_is_found() -> None:
    path = [Arrow("a", "b", 1, "top"), Arrow("b", "c", 1, "deferred"), Arrow("c", "d", 1, "top")]
    assert circles(path) == []
    assert circles([*path, Arrow("c", "a", 2, "types"), Arrow("d", "d2", 1, "top")]) == [["a", "b", "c"]]


def test_folders_and_files_stay_small() -> None:
    folders = files_by_folder("pure", "export")
    assert not too_wide(folders, ROWS_OF_ONE_KIND)
    assert set(ROWS_OF_ONE_KIND) <= set(too_wide(folders)), "a folder that is small again needs no exception"
    assert not too_long("pure", "export")


def test_pure_needs_only_torch_and_safetensors() -> None:
    allowed = {"pure", SHARED, "torch", "safetensors", *sys.stdlib_module_names}
    terminal = "pure/flow/shared/terminal.py"
    homes = {"matplotlib": "pure/flow/", "rich": terminal, "IPython": terminal}
    foreign = []
    for path in python_files("pure"):
        for found in imports(path):
            where = homes.get(top(found.module))
            showing = where is not None and found.deferred and relative(path).startswith(where)
            if top(found.module) not in allowed and not showing:
                foreign.append(f"{relative(path)}:{found.line} {found.module}")
    assert not foreign, f"only functions of pure/flow may import more, to draw and to print: {foreign}"


def test_what_both_packages_import_needs_the_standard_library_only() -> None:
    foreign = [i.module for i in imports(ROOT / f"{SHARED}.py") if top(i.module) not in sys.stdlib_module_names]
    assert not foreign


def test_importing_pure_loads_nothing_of_the_export_side() -> None:
    loaded = run("import sys, pure, pure.flow; print(*sorted({m.partition('.')[0] for m in sys.modules}))").split()
    assert "torch" in loaded
    unwanted = {"export", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "matplotlib", "sklearn", "typer", "rich"}
    assert not unwanted.intersection(loaded)


def test_only_one_file_uses_the_private_pytree_module() -> None:
    users = set()
    for path in python_files():
        named = any(found.module.startswith("torch.utils._pytree") for found in imports(path))
        reached = any(isinstance(node, ast.Attribute) and node.attr == "_pytree" for node in ast.walk(parse(path)))
        if named or reached:
            users.add(relative(path))
    assert users == {"pure/tree/pytree.py"}


@pytest.mark.parametrize("module", ["export", "export.runtime", "export.errors"])
def test_the_runtime_side_imports_neither_torch_nor_pure(module: str) -> None:
    loaded = run(f"import sys, {module}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))").split()
    assert "export" in loaded
    assert not {"torch", "pure"}.intersection(loaded)


@pytest.mark.parametrize("module", ["export.runtime", "export.errors"])
def test_nothing_the_runtime_reaches_at_import_names_torch_or_pure(module: str) -> None:
    files = {module_name(path): path for path in python_files("export")}
    waiting, seen, wrong = [module, "export"], set(), []
    while waiting:
        name = waiting.pop()
        if name in seen or name not in files:
            continue
        seen.add(name)
        for found in imports(files[name]):
            if found.deferred:
                continue
            waiting.append(found.module)
            if top(found.module) in {"torch", "pure"}:
                wrong.append(f"{relative(files[name])}:{found.line} {found.module}")
    assert module in seen
    assert not wrong, wrong


def test_a_file_runs_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    import numpy as np
    import torch

    import export
    from pure import nets

    block = nets.create("simple_block", in_features=3, hidden_features=5, out_features=2)
    params, _ = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    path = tmp_path / "simple.onnx"
    export.to_onnx(lambda x: block(params, x), (x,), path)
    np.save(tmp_path / "x.npy", x.numpy())
    run(f"""
import sys
sys.modules["torch"] = sys.modules["pure"] = None  # from here on, importing either raises ImportError
import numpy as np
from export import runtime
y = runtime.load({str(path)!r}, device="cpu")(np.load({str(tmp_path / "x.npy")!r}))
assert isinstance(y, np.ndarray), type(y)
np.save({str(tmp_path / "y.npy")!r}, y)
""")
    y = torch.from_numpy(np.load(tmp_path / "y.npy"))
    assert y.shape == (4, 2)
    torch.testing.assert_close(y, block(params, x))
