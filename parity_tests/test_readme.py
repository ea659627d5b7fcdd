"""The README is one page, and what it shows is run: its Python blocks in order, its commands, its links."""

import json
import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from benchmarks import picture
from parity_tests.markdown_pages import run_python_blocks

COMMAND = re.compile(r"<!-- command: (\w+) -->\s*```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MAX_BYTES = 8 * 1024


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def commands(text: str) -> dict[str, str]:
    return {match[1]: match[2].strip() for match in COMMAND.finditer(text)}


def test_it_is_one_page(readme: str) -> None:
    assert len(readme.encode()) <= MAX_BYTES, "move it into docs/"


def test_python_blocks_run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_python_blocks(root / "README.md"), "the README shows no Python example"


def test_the_picture_is_drawn_from_the_committed_results(readme: str, root: Path) -> None:
    assert f"({picture.PICTURE})" in readme
    data = json.loads((root / picture.RESULTS).read_text(encoding="utf-8"))
    same = (root / picture.PICTURE).read_text(encoding="utf-8") == picture.drawn(data)
    assert same, "draw it again: python -m benchmarks.picture"


def test_the_two_commands_are_there_and_self_contained(readme: str, root: Path) -> None:
    found = commands(readme)
    assert set(found) == {"report", "test"}
    for name, extras in {"report": "report", "test": "report,test"}.items():
        words = shlex.split(found[name])
        install = words[: words.index("&&")]
        assert install[:6] == ["python", "-m", "pip", "install", "-c", "constraints.txt"], found[name]
        assert install[-1] == f".[{extras}]", found[name]
    assert found["report"].endswith("pure-export report")
    assert found["test"].endswith("python -m pytest")
    scripts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert "pure-export" in scripts


def test_continuous_integration_runs_the_readme_command(root: Path) -> None:
    script = root / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert "readme_command test" in text
    assert "pip install" not in text, "the install line is the README's, not a second copy of it"
