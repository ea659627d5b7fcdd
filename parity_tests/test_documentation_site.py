"""The site builds strictly, fetches nothing and is searchable; each fault of a page or a docstring fails it."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import pure
from parity_tests.markdown_pages import documents
from parity_tests.sources import ROOT

PLANTED = '''
"""A module with public names that lack a docstring."""

__all__ = ["Bare", "VALUE", "documented", "bare"]

VALUE = 1


class Bare:
    """A class with a method that lacks one."""

    def method(self) -> None: ...

    def _private(self) -> None: ...


def documented() -> None:
    """Do nothing."""


def bare() -> None: ...
'''
PAGE = """# Planted

[a page](nowhere.md), [a heading](index.md#nowhere), [a heading here](#here)
"""


def built(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    words = [sys.executable, "-c", f"from pathlib import Path\nfrom export.app import documentation\n{command}"]
    return subprocess.run(words, capture_output=True, text=True, timeout=900, env=environment, cwd=folder)


class Fetched(HTMLParser):
    """Gathers what a page loads from elsewhere."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        loads = {"script": "src", "img": "src", "iframe": "src", "link": "href"}.get(tag)
        if loads and (given.get(loads) or "").startswith(("http:", "https:", "//")) and given.get("rel") != "canonical":
            self.urls.append(f"{tag} {given[loads]}")


@pytest.mark.slow
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    site = tmp_path / "site"
    before = os.times()
    done = built(f"documentation.build(Path({str(site)!r}))", tmp_path)
    after = os.times()
    assert done.returncode == 0, done.stdout + done.stderr
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert seconds < 180, "of one processor"
    pages = sorted(site.rglob("*.html"))
    names = {path.relative_to(site).as_posix() for path in pages}
    assert {page.replace(".md", ".html") for page in documents()} <= names
    assert sum(name.startswith("catalogue/") for name in names) > len(pure.catalogue.CASES)
    for path in pages:
        if path.name != "404.html":
            assert not Fetched(path.read_text(encoding="utf-8")).urls, path
    search = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    for said in ("shard_map", "UnsupportedOpError", "opset 17"):
        assert said.lower() in search.lower(), said


@pytest.mark.slow
def test_each_fault_fails_the_build(tmp_path: Path) -> None:
    """A page outside the navigation, broken links and bare names, under the site's own settings and hooks."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (tmp_path / "planted.py").write_text(PLANTED)
    shutil.copy(ROOT / "pure_export_shared.py", tmp_path)
    shutil.copy(ROOT / "docs" / "griffe_examples.py", docs)
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[0]
    (tmp_path / "mkdocs.yml").write_text(f"{settings}\nnav:\n" + 6 * "  - index.md\n")
    hooks = (ROOT / "docs" / "site_hooks.py").read_text(encoding="utf-8")
    hooks = re.sub(r"^API: .*?^}", 'API = {"planted": "A module."}', hooks, flags=re.MULTILINE | re.DOTALL)
    hooks = re.sub(r"^ROOT = .*$", "ROOT = Path(__file__).parents[1]", hooks, flags=re.MULTILINE)
    (docs / "site_hooks.py").write_text(hooks)
    (docs / "index.md").write_text(PAGE)
    (docs / "FILES.md").write_text("# Left out\n")
    start = "import export.app.reference.site_pages as site_pages\nsite_pages.CASES = ()\n"
    start += "site_pages.pages.__defaults__ = site_pages.navigation.__defaults__ = ((),)\n"
    done = built(f"{start}documentation.home = lambda: Path.cwd()\ndocumentation.build(Path('site'))", tmp_path)
    assert done.returncode == 1
    said = done.stderr[done.stderr.index("the site was not built") :]
    for fault in (
        "planted.bare has no docstring",
        "planted.VALUE has no docstring",
        "planted.Bare.method has no docstring",
        'not included in the "nav" configuration:\n  - FILES.md',
        "nowhere.md",
        "index.md#nowhere",
        "'#here'",
    ):
        assert fault in said, said
    assert "documented" not in said
    assert "_private" not in said
