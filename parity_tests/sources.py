"""The project's own source files and what each imports, read without running them."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "pure",
    "pure_export_shared.py",
    "pure_export_pytest.py",
    "export",
    "parity_tests",
    "benchmarks",
    "examples",
)


@dataclass(frozen=True)
class Import:
    """One imported module.

    Attributes:
        module: Its absolute dotted name.
        line: The line of the statement.
        deferred: Whether the statement stands in a function, so that importing the file does not run it.
    """

    module: str
    line: int
    deferred: bool


def python_files(*packages: str) -> list[Path]:
    """Every Python file of the given top-level folders and modules (default: all of them), in order of path."""
    tops = [ROOT / package for package in packages or PACKAGES]
    return sorted(path for top in tops for path in ([top] if top.is_file() else top.rglob("*.py")))


@cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file; it is shared, so leave it as it is."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> list[Import]:
    """What the file imports; blocks under `if TYPE_CHECKING:` are left out, as they are never run.

    `from a.b import c` counts as `a.b` and `a.b.c`, since c may be a module.
    """
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    found: list[Import] = []

    def visit(node: ast.AST, deferred: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child, deferred)
            return
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.append(Import(base, node.lineno, deferred))
            found.extend(Import(f"{base}.{alias.name}", node.lineno, deferred) for alias in node.names)
        inside = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(parse(path), False)
    return found
