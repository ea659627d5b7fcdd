"""Writes down every file with what it holds: `python -m parity_tests.file_map` renews docs/FILES.md.

The words are the first lines of the modules' docstrings, so that a reader finds a file by what it is for.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "FILES.md"
COMMAND = "python -m parity_tests.file_map"

HEAD = f"""# Every file, and what it holds

Search this page for what you look for. [ARCHITECTURE.md](ARCHITECTURE.md) says how the folders belong together.
`{COMMAND}` renews it.
"""


def first_line(path: Path) -> str:
    """The first line of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".")


def page() -> str:
    """The page: a table for each folder of `pure` and `export`, and the module that both share."""
    lines = [HEAD, f"- `pure_export_shared.py`: {first_line(ROOT / 'pure_export_shared.py')}"]
    for package in ("pure", "export"):
        for folder in sorted({path.parent for path in (ROOT / package).rglob("*.py")}):
            lines += [f"\n## {folder.relative_to(ROOT)}\n\n{first_line(folder / '__init__.py')}\n"]
            files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
            lines += [f"- `{path.name}`: {first_line(path)}" for path in files]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
