"""What the README shows is run: its Python blocks in order, its commands, its example of a test, its links."""

import os
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from export.app import command_line

pytest_plugins = "pytester"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"<!-- command: (\w+) -->\s*```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block: its language, its text and the line that its first line stands on."""

    language: str
    text: str
    line: int


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def code_blocks(text: str) -> list[CodeBlock]:
    return [CodeBlock(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in FENCE.finditer(text)]


def commands(text: str) -> dict[str, str]:
    return {match[1]: match[2].strip() for match in COMMAND.finditer(text)}


def test_python_blocks_run(readme: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [block for block in code_blocks(readme) if block.language == "python"]
    assert blocks, "the README shows no Python example"
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in blocks:
        # Blank lines in front make the line numbers of a traceback those of the README.
        source = "\n" * (block.line - 1) + block.text
        exec(compile(source, str(root / "README.md"), "exec"), namespace)


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


def test_links_into_the_repository_point_at_files(readme: str, root: Path) -> None:
    targets = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", readme)}
    missing = [t for t in targets if t and "://" not in t and not (root / t).exists()]
    assert not missing, f"the README links to files that are not there: {missing}"


def test_blocks_are_found_with_their_lines() -> None:
    text = "# T\n\n```python\nx = 1\n```\n\n<!-- command: test -->\n```bash\necho hi && \\\n  true\n```\n"
    first, second = code_blocks(text)
    assert (first.language, first.text, first.line) == ("python", "x = 1\n", 4)
    assert (second.language, second.line) == ("bash", 9)
    assert commands(text) == {"test": "echo hi && \\\n  true"}


EXAMPLE = re.compile(r"<!-- example: (\w+) -->\s*```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 3), nn.Tanh())
"""

MADE = """
import torch

import pure

block = pure.nets.residual_mlp(4, 8, depth=2)
params, _ = block.init(torch.Generator().manual_seed(0))
x = torch.linspace(-1, 1, 12).reshape(3, 4)


"""


@pytest.fixture(scope="module")
def examples(readme: str) -> dict[str, str]:
    return {match[1]: match[2] for match in EXAMPLE.finditer(readme)}


def test_the_verdict_on_a_file_is_one_command(
    examples: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    np.savez("samples.npz", input=np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4))
    lines = examples["verify"].splitlines()
    assert len(lines) == 2
    for line in lines:
        name, *words = shlex.split(line)
        assert name == "pure-export"
        result = CliRunner().invoke(command_line.app, words)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "verdict.xml").is_file()


def test_the_pytest_plugin_needs_no_import(
    examples: dict[str, str], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root))
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(test_readme_example=MADE + examples["test"])
    pytester.runpytest_subprocess("-p", "pure_export_pytest").assert_outcomes(passed=1)
