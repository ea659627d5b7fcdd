"""Every page of docs/ is in the navigation, its code runs, its links lead somewhere; errors lead to pages."""

import importlib
import json
import pkgutil
import re
import shlex
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import export
import pure
from export.app import command_line, documentation
from export.errors import EagerDerivativeWarning, UnusedInputWarning
from parity_tests.markdown_pages import (
    DOCS,
    anchors,
    broken_links,
    code_blocks,
    documents,
    examples,
    fits,
    run_python_blocks,
    with_outputs,
)
from parity_tests.sources import ROOT
from pure.errors import PureExportError

pytest_plugins = "pytester"

PAGES = documents()
WITH_CODE = [page for page in PAGES if "\n```python\n" in (DOCS / page).read_text(encoding="utf-8")]
JUDGE = DOCS / "tutorials" / "judge-a-file.md"
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


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the processes that a page starts
    assert run_python_blocks(DOCS / page)


def page_with(tmp_path: Path, shown: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text("# T\n\n```python\nprint('a', 1 / 3)\n```\n" + shown + "\n## After\n")
    return page


SHOWN = "\n```output\na 0.3333333333333333\n```\n"


@pytest.mark.parametrize("shown", ["", SHOWN.replace("3", "4", 1), SHOWN.replace("a 0", "b 0"), f"\nText.\n{SHOWN}"])
def test_a_page_that_shows_something_else_than_its_code_prints_fails(shown: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"line 4: printed\na 0\.33"):
        run_python_blocks(page_with(tmp_path, shown))


def test_a_page_whose_code_does_not_run_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# T\n\n```python\nnumber = 1\n\nnumber.no_such_name\n```\n")
    with pytest.raises(AttributeError, match="no_such_name") as caught:
        run_python_blocks(page)
    assert caught.traceback[-1].lineno == 5  # counted from 0: the page's own line


def test_what_code_prints_is_written_below_it(tmp_path: Path) -> None:
    for shown in ("", "\n```output\nb\n```\n"):
        page = page_with(tmp_path, shown)
        page.write_text(with_outputs(page))
        assert page.read_text() == page_with(tmp_path, SHOWN).read_text()
        assert run_python_blocks(page) == 1
        assert with_outputs(page) == page.read_text()
    shown = page_with(tmp_path, "\n```output\na 0.…\n```\n").read_text()
    assert with_outputs(tmp_path / "page.md") == shown, "what fits is left as it is"


@pytest.mark.parametrize(
    ("expected", "printed", "fit"),
    [
        ("a  1.25", "a 1.26  ", True),
        ("a 1.25", "a 1.28", False),
        ("a 0.4", "a 0.3333", False),
        ("a 0.5", "a 0.4999", True),
        ("a 2.0e-09", "a 2.1e-09", True),
        ("12 nodes", "13 nodes", False),
        ("name  ----", "name  ------", True),
        ("torch 2.…, 5 nodes", "torch 2.12.1, 5 nodes", True),
        ("torch 2.…, 5 nodes", "torch 2.12.1, 6 nodes", False),
        ("", "a", False),
        ("a", "a\nb", False),
        ("version 1.31.1", "version 1.31.2", False),
    ],
)
def test_what_is_printed_fits_what_is_shown(expected: str, printed: str, fit: bool) -> None:
    assert fits(expected, printed) == fit


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{page}" for page in PAGES)])
def test_links_into_the_repository_lead_somewhere(page: str) -> None:
    assert not broken_links(ROOT / page)


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"- (\S+\.md)", text)
    assert sorted(named) == PAGES


def test_blocks_are_found_with_their_lines() -> None:
    text = "# T\n\n```python\nx = 1\n```\n\n<!-- command: test -->\n```bash\necho hi && \\\n  true\n```\n"
    first, second = code_blocks(text)
    assert (first.language, first.text, first.line) == ("python", "x = 1\n", 4)
    assert (second.language, second.line) == ("bash", 9)


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A b\n\n[1](page.md#a-b) [2](#c) [3](other.md) [4](api/pure.md)\n\n```sh\n# c\n[5](no.md)\n```\n")
    assert broken_links(page) == ["#c", "other.md"]


def test_the_verdict_on_a_file_is_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    scope: dict[str, Any] = {}
    exec(NET, scope)
    module = scope["Net"]().eval()
    pure.interop.write(module.state_dict(), "net.safetensors")
    rows = torch.linspace(-1, 1, 20).reshape(5, 4)
    torch.onnx.export(module, (rows,), "theirs.onnx", dynamic_shapes=({0: "batch"},), verbose=False)
    np.savez("samples.npz", input=rows.numpy())
    (line,) = examples(JUDGE)["verify"].splitlines()
    name, *words = shlex.split(line)
    assert name == "pure-export"
    result = CliRunner().invoke(command_line.app, words)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "verdict.xml").is_file()


def test_the_pytest_plugin_needs_no_import(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(test_page_example=MADE + examples(JUDGE)["test"])
    pytester.runpytest_subprocess("-p", "pure_export_pytest").assert_outcomes(passed=1)


# Errors


def error_classes() -> list[type[BaseException]]:
    """Every public error class of the two packages, and the warnings."""
    for package in (pure, export):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(("export.app.report", "export.app.reference")):
                importlib.import_module(module.name)

    def below(kind: type[BaseException]) -> Iterator[type[BaseException]]:
        yield kind
        for derived in kind.__subclasses__():
            yield from below(derived)

    ours = ("pure", "export", "pure_export_shared")
    found = [kind for kind in below(PureExportError) if kind.__module__.partition(".")[0] in ours]
    return [
        kind
        for kind in dict.fromkeys([*found, EagerDerivativeWarning, UnusedInputWarning])
        if not kind.__name__.startswith("_")
    ]


def test_every_error_has_a_section_and_every_section_an_error() -> None:
    named = anchors((DOCS / "errors.md").read_text(encoding="utf-8"))[1:]
    assert sorted(named) == sorted(kind.__name__.lower() for kind in error_classes())


def test_a_section_says_what_happened_why_and_what_to_do() -> None:
    for kind in error_classes():
        text = documentation.page(f"errors#{kind.__name__}")
        assert re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE) == ["What happened", "Why", "What to do"], kind


def test_an_error_ends_in_the_section_that_explains_it() -> None:
    with pytest.raises(pure.errors.ArgumentError) as caught:
        pure.Linear(3, 4).init(0)  # type: ignore[arg-type]
    said = traceback.format_exception(caught.value)[-1].strip()
    assert said == "docs: pure-export docs errors#argumenterror"
    assert documentation.page(said.rpartition(" ")[2]).startswith("## ArgumentError")


# The command and the site


def command(*words: object) -> str:
    result = CliRunner().invoke(command_line.app, ["docs", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_lists_and_prints_pages() -> None:
    listed = json.loads(command("--json"))
    assert [f"{name}.md" for name in sorted(listed)] == PAGES
    assert list(listed)[:3] == ["index", "install", "answers"], "as in the navigation"
    assert "how-to/opsets" in command()
    assert command("opsets") == command("how-to/opsets.html") == (DOCS / "how-to" / "opsets.md").read_text()
    assert command("errors#shapeerror").startswith("## ShapeError\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["opsetz"], "did you mean"),
        (["errors#shapeeror"], "did you mean 'shapeerror'"),
        (["index", "--html", "site"], "leave the page out"),
        (["--open"], "--open goes with --html"),
    ],
)
def test_the_command_refuses(words: list[str], said: str) -> None:
    result = CliRunner().invoke(command_line.app, ["docs", *words])
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(export.errors.WriteError, match="holds other files"):
        documentation.build(tmp_path)
    assert (tmp_path / "thesis.tex").is_file()
