"""Shells complete commands, options, choices and pages, by the script that `--install-completion` writes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from export.app import documentation
from parity_tests.sources import ROOT

COMMAND = f"""#!{sys.executable}
from export.app.command_line import app

app(prog_name="pure-export")
"""
"""What the installed package's script does."""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home folder of its own, with `pure-export` on the path."""
    script = tmp_path / "bin" / "pure-export"
    script.parent.mkdir()
    script.write_text(COMMAND)
    script.chmod(0o755)
    return {"HOME": str(tmp_path), "PATH": f"{script.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def shell(environment: dict[str, str], lines: str) -> str:
    bash = shutil.which("bash")
    assert bash
    done = subprocess.run([bash, "-c", lines], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def completed(environment: dict[str, str], *words: str) -> list[str]:
    """Return what bash offers for the last word, once the script was installed."""
    quoted = " ".join(f"'{word}'" for word in words)
    lines = f"""
    pure-export --install-completion > /dev/null
    source ~/.bashrc
    COMP_WORDS=({quoted}) COMP_CWORD={len(words) - 1}
    complete -p pure-export > /dev/null
    _pure_export_completion pure-export
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return shell(environment, lines).split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["qu"], {"quantize"}),
        (["re"], {"reference", "report"}),
        (["onnx", "resnet20", "net.onnx", "--ba"], {"--bake"}),
        (["quantize", "net.onnx", "--method", "e"], {"entropy"}),
        (["docs", "how-to/ops"], {"how-to/opsets"}),
        (["docs", "drop"], {"dropout"}),
        (["docs", "nowhere"], set()),
    ],
)
def test_bash_completes(words: list[str], offered: set[str], environment: dict[str, str]) -> None:
    assert set(completed(environment, "pure-export", *words)) == offered


def test_every_page_is_offered(environment: dict[str, str]) -> None:
    assert completed(environment, "pure-export", "docs", "") == list(documentation.pages())


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_other_shells_have_a_script(name: str, environment: dict[str, str]) -> None:
    script = shell({**environment, "_PURE_EXPORT_COMPLETE": f"source_{name}"}, "pure-export")
    assert "pure-export" in script
    assert f"complete_{name}" in script
