"""The guides for contributors name files that exist, commands that can be run, and every folder of the two packages."""

import importlib.util
import re

import pytest

from parity_tests import file_map
from parity_tests.import_graph import files_by_folder
from parity_tests.sources import ROOT

GUIDES = ["CONTRIBUTING.md", "docs/ARCHITECTURE.md"]
TOPS = ("pure/", "export/", "parity_tests/", "benchmarks/", "docs/", "examples/", "findings/", ".ci/")


def quoted(guide: str) -> list[str]:
    """Return what stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", (ROOT / guide).read_text(encoding="utf-8"))


@pytest.mark.parametrize("guide", GUIDES)
def test_every_path_exists(guide: str) -> None:
    paths = [text for text in quoted(guide) if text.startswith(TOPS) or re.fullmatch(r"\w+\.(md|toml|txt)", text)]
    assert len(paths) > 20
    missing = [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]
    assert not missing, missing
    patterns = [path.replace("NAME", "*") for path in paths if "NAME" in path]
    assert all(list(ROOT.glob(pattern)) for pattern in patterns), patterns


@pytest.mark.parametrize("guide", GUIDES)
def test_every_module_that_is_run_exists(guide: str) -> None:
    modules = {
        found for text in quoted(guide) for found in re.findall(r"python -m ((?:parity_tests|benchmarks)[\w.]*)", text)
    }
    assert modules
    assert not [module for module in modules if importlib.util.find_spec(module) is None]


def test_every_folder_is_on_the_map() -> None:
    named = set(quoted("docs/ARCHITECTURE.md"))
    missing = [folder for folder in files_by_folder("pure", "export") if f"{folder}/" not in named]
    assert not missing, missing


def test_the_readme_leads_to_the_guides() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"({guide})" in readme for guide in GUIDES)


def test_the_list_of_files_is_what_the_command_writes() -> None:
    assert file_map.PAGE.read_text(encoding="utf-8") == file_map.page(), f"renew it: {file_map.COMMAND}"
