"""The map of files and imports: `python -m parity_tests.import_graph` prints it, `test_imports.py` holds its limits.

Printed are the folders with their number of files, files over the limit of lines, every circle of imports (whether at
the top of a file, deferred into a function, or under `TYPE_CHECKING`), every deferred import, and the arrows between
packages with the number of imports behind each.
"""

import ast
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from parity_tests.sources import ROOT, module_name, parse, python_files

__all__ = ["MAX_FILES", "MAX_LINES", "Arrow", "arrows", "circles", "files_by_folder", "main", "too_long", "too_wide"]

PRODUCT = ("pure", "export")
EVERYTHING = ("benchmarks", "parity_tests", "export", "pure")
MAX_FILES = 14
"""Files in a folder, `__init__.py` included."""
MAX_LINES = 350
"""Lines of a file."""


@dataclass(frozen=True)
class Arrow:
    """One import of one of the project's modules by another.

    Attributes:
        source: The module that imports.
        target: The module that is imported.
        line: The line of the statement.
        kind: "top", "deferred" (in a function) or "types" (under `TYPE_CHECKING`).
    """

    source: str
    target: str
    line: int
    kind: str


def _statements(tree: ast.Module) -> list[tuple[ast.Import | ast.ImportFrom, str]]:
    """Return each import statement with its kind."""
    found: list[tuple[ast.Import | ast.ImportFrom, str]] = []

    def visit(node: ast.AST, kind: str) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append((node, kind))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, "types")
            for child in node.orelse:
                visit(child, kind)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                visit(child, "deferred" if inside else kind)

    visit(tree, "top")
    return found


@cache
def arrows(*packages: str) -> tuple[Arrow, ...]:
    """Return every import between modules of the given packages, `from a import b` as a.b where that is a module."""
    files = {module_name(path): path for path in python_files(*packages)}
    found = []
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node, kind in _statements(parse(path)):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                targets = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in files else base for alias in node.names]
            found += [Arrow(name, t, node.lineno, kind) for t in dict.fromkeys(targets) if t in files and t != name]
    return tuple(found)


def circles(found: Iterable[Arrow]) -> list[list[str]]:
    """Return the strongly connected sets of two or more modules (Tarjan's algorithm), each sorted."""
    targets: dict[str, list[str]] = {}
    for arrow in found:
        targets.setdefault(arrow.source, []).append(arrow.target)
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    rings = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        path.append(module)
        for target in targets.get(module, ()):
            if target not in number:
                visit(target)
            if target in path:
                lowest[module] = min(lowest[module], lowest[target])
        if lowest[module] == number[module]:
            ring = path[path.index(module) :]
            del path[path.index(module) :]
            if len(ring) > 1:
                rings.append(sorted(ring))

    for module in list(targets):
        if module not in number:
            visit(module)
    return rings


def files_by_folder(*packages: str) -> dict[str, int]:
    """Return {folder: number of Python files that lie in it}, in order of path."""
    counted = Counter(path.parent.relative_to(ROOT).as_posix() for path in python_files(*packages))
    return dict(sorted(counted.items()))


def too_wide(folders: Mapping[str, int], allowed: Iterable[str] = ()) -> dict[str, int]:
    """Return the folders of more than `MAX_FILES` files that are not allowed to be."""
    return {folder: count for folder, count in folders.items() if count > MAX_FILES and folder not in set(allowed)}


def lines(path: Path) -> int:
    """Return the number of lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def too_long(*packages: str) -> dict[str, int]:
    """Return {file: lines} of the files over `MAX_LINES`."""
    counted = {path.relative_to(ROOT).as_posix(): lines(path) for path in python_files(*packages)}
    return {name: count for name, count in counted.items() if count > MAX_LINES}


def main() -> None:
    """Print the map."""
    found = arrows(*PRODUCT)
    print("folders, with their files:")
    for folder, count in files_by_folder(*PRODUCT).items():
        print(f"  {count:4d}  {folder}{f'  (over {MAX_FILES})' if count > MAX_FILES else ''}")
    print(f"files over {MAX_LINES} lines:")
    for name, count in too_long(*PRODUCT).items():
        print(f"  {count:4d}  {name}")
    rings = circles(found)
    print(f"circles of imports: {len(rings)}")
    for ring in rings:
        print(f"  {len(ring)} modules")
        for arrow in found:
            if arrow.source in ring and arrow.target in ring:
                print(f"    {arrow.source}:{arrow.line} → {arrow.target}  ({arrow.kind})")
    print("deferred imports of the project's own modules:")
    for arrow in found:
        if arrow.kind == "deferred":
            print(f"  {arrow.source}:{arrow.line} → {arrow.target}")
    print("imports between packages:")
    between = Counter((a.source.partition(".")[0], a.target.partition(".")[0]) for a in arrows(*EVERYTHING))
    for (source, target), count in sorted(between.items()):
        if source != target:
            print(f"  {count:4d}  {source} → {target}")


if __name__ == "__main__":
    main()
