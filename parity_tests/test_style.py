"""Linter, formatter and type checker pass, and the habits that no tool checks are kept."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from parity_tests.sources import ROOT, parse, python_files

COMMANDS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy", "pure", "export"],
}
# Spelt in two parts so that this file does not mention them itself.
HOSTS = [
    "pypi" + ".org",
    "python" + "hosted.org",
    "pypi" + ".python.org",
    "npmjs" + ".org",
    "npmjs" + ".com",
    "download.pytorch" + ".org",
    "conda" + ".anaconda.org",
    "index" + "-url",
]
TEXT = {"", ".py", ".toml", ".md", ".txt", ".json", ".yml", ".yaml", ".cfg", ".sh", ".html", ".js", ".css", ".typed"}
GENERATED = {"report", "build", "dist", "__pycache__", "node_modules"}


def text_files() -> list[Path]:
    """Every text file of the project, leaving out hidden folders other than .ci and what the commands write."""
    found = []
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") for part in parts[:-1]) and parts[0] != ".ci"
        if path.is_file() and path.suffix in TEXT and not hidden and not GENERATED.intersection(parts[:-1]):
            found.append(path)
    return found


@pytest.mark.parametrize("tool", COMMANDS)
def test_tool_passes(tool: str) -> None:
    command = [sys.executable, "-m", *COMMANDS[tool]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def test_the_hooks_before_a_commit_run_the_same_commands() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert dict(re.findall(r"name: (.+)\n +entry: python -m (.+)", hooks)) == {
        name: " ".join(command) for name, command in COMMANDS.items()
    }
    assert re.findall(r"repo: (\S+)", hooks) == ["local"], "hooks run what is installed, and download nothing"
    assert hooks.count("language: system") == hooks.count("- id: ") == len(COMMANDS)


def test_no_file_mentions_a_package_registry() -> None:
    files = text_files()
    assert {ROOT / "pyproject.toml", ROOT / ".ci" / "run", ROOT / "constraints.txt"} <= set(files)
    mentions = [
        f"{path.relative_to(ROOT)}:{number} {host}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for host in HOSTS
        if host in line.lower()
    ]
    assert not mentions, mentions


def too_broad(handler: ast.ExceptHandler) -> bool:
    """Whether a handler takes every exception; `except BaseException` is for cleaning up, so it must end in `raise`."""
    if handler.type is None:
        return True
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {ast.unparse(node).rpartition(".")[2] for node in types}
    last = handler.body[-1]
    reraises = isinstance(last, ast.Raise) and last.exc is None
    return "Exception" in names or ("BaseException" in names and not reraises)


def test_no_exception_is_swallowed_whole() -> None:
    broad = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node).splitlines()[0]}"
        for path in python_files()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ExceptHandler) and too_broad(node)
    ]
    assert not broad, f"name the errors that are expected: {broad}"


@pytest.mark.parametrize(
    ("handler", "broad"),
    [
        ("except:\n    pass", True),
        ("except Exception:\n    raise", True),
        ("except (ValueError, Exception):\n    pass", True),
        ("except BaseException:\n    pass", True),
        ("except BaseException:\n    clean()\n    raise", False),
        ("except (ValueError, KeyError):\n    pass", False),
    ],
)
def test_the_check_for_broad_handlers_itself(handler: str, broad: bool) -> None:
    (statement,) = ast.parse(f"try:\n    pass\n{handler}").body
    assert isinstance(statement, ast.Try)
    assert too_broad(statement.handlers[0]) is broad


def test_no_file_is_named_for_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "misc", "common"}
    named = [str(path.relative_to(ROOT)) for path in python_files() if path.stem in vague]
    assert not named, f"name a file after its one idea: {named}"
