"""Markdown pages as tests see them: their code blocks with lines, headings' anchors, and links."""

import re
from dataclasses import dataclass
from pathlib import Path

from export.app.documentation import slug
from parity_tests.sources import ROOT

DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"<!-- example: (\w+) -->\s*```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
GENERATED = ("catalogue/", "api/")
"""Folders of pages that are made when the site is built."""


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block: its language, its text and the line that its first line stands on."""

    language: str
    text: str
    line: int


def documents() -> list[str]:
    """Every page of docs/, by its path there."""
    return sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def code_blocks(text: str) -> list[CodeBlock]:
    """The fenced blocks of a page."""
    return [CodeBlock(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in FENCE.finditer(text)]


def examples(page: Path) -> dict[str, str]:
    """The blocks that follow `<!-- example: NAME -->`."""
    return {match[1]: match[2] for match in EXAMPLE.finditer(page.read_text(encoding="utf-8"))}


def run_python_blocks(page: Path) -> int:
    """Run the Python blocks of a page in order, in one namespace, and return how many there are."""
    blocks = [block for block in code_blocks(page.read_text(encoding="utf-8")) if block.language == "python"]
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        # Blank lines in front make the line numbers of a traceback those of the page.
        source = "\n" * (block.line - 1) + block.text
        exec(compile(source, str(page), "exec"), namespace)
    return len(blocks)


def anchors(text: str) -> list[str]:
    """The anchors of a page's headings."""
    return [slug(line.lstrip("# ")) for line in FENCE.sub("", text).splitlines() if re.match(r"#+ ", line)]


def broken_links(page: Path) -> list[str]:
    """The links of a page into the repository whose file or heading is not there."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for link in LINK.findall(text):
        target, _, anchor = link.partition("#")
        if "://" in link or target.removeprefix("../").startswith(GENERATED):
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken
