"""Markdown pages as tests see them: code blocks and what they print, headings' anchors, and links.

`python -m parity_tests.markdown_pages PAGE...` runs the code of pages and writes below each block what it prints.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from export.app.documentation import slug
from parity_tests.sources import ROOT

DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"<!-- example: (\w+) -->\s*```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.…])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w|\.?…|\.\d)")
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
    """Run the Python blocks of a page in order, in one namespace, and return how many there are.

    Raises:
        AssertionError: if a block prints something else than the `output` block below it shows (see `fits`), or prints
            something and there is none.
    """
    ran = 0
    for block, shown, printed in _runs(page):
        expected = shown.text if shown else ""
        assert fits(expected, printed), (
            f"{page}, line {block.line}: printed\n{printed}\nwhere the page shows\n{expected}"
        )
        ran += 1
    return ran


def fits(expected: str, printed: str) -> bool:
    """Whether a text is the expected one.

    A `…` stands for any part of a line, a decimal may differ by 2 in the last digit shown (processors round
    differently), and widths of columns do not count.
    """
    wanted, given = _lines(expected), _lines(printed)
    return len(wanted) == len(given) and all(map(_line_fits, wanted, given))


def _line_fits(expected: str, printed: str) -> bool:
    parts = re.split(f"({NUMBER.pattern}|…)", expected)
    numbers = [part for part in parts[1::2] if part != "…"]
    pattern = "".join(
        re.escape(part) if place % 2 == 0 else ".*" if part == "…" else f"({NUMBER.pattern})"
        for place, part in enumerate(parts)
    )
    match = re.fullmatch(pattern, printed)
    return match is not None and all(map(_close, numbers, match.groups()))


def _close(expected: str, printed: str) -> bool:
    if re.fullmatch(r"-?\d+", expected):
        return expected == printed
    both = Decimal(expected), Decimal(printed)
    last_digit = min(int(number.as_tuple().exponent) for number in both)
    return abs(both[0] - both[1]) <= 2 * Decimal(10) ** last_digit


def _lines(text: str) -> list[str]:
    return [re.sub(r" +|-{3,}", lambda run: run[0][:1], line.strip()) for line in text.strip("\n").splitlines()]


def with_outputs(page: Path) -> str:
    """Return the text of a page with what its blocks print below them; a text that fits already stays."""
    lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
    for block, shown, printed in reversed(list(_runs(page))):
        end = block.line - 1 + block.text.count("\n") + 1  # after the closing fence
        if fits(shown.text if shown else "", printed):
            continue
        if shown:
            end = shown.line - 1 + shown.text.count("\n") + 1
            del lines[block.line - 1 + block.text.count("\n") + 1 : end]
            end = block.line - 1 + block.text.count("\n") + 1
        if printed.strip():
            lines.insert(end, f"\n```output\n{_trimmed(printed)}```\n")
    return "".join(lines)


def _runs(page: Path) -> Iterator[tuple[CodeBlock, CodeBlock | None, str]]:
    """Run each Python block; yield it, the `output` block right below it, and what was printed."""
    text = page.read_text(encoding="utf-8")
    blocks = code_blocks(text)
    lines = text.splitlines()
    namespace: dict[str, object] = {"__name__": "page"}
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language != "python":
            continue
        # Blank lines in front make the line numbers of a traceback those of the page.
        source = "\n" * (block.line - 1) + block.text
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, str(page), "exec"), namespace)
        end = block.line + block.text.count("\n")
        is_output = after and after.language == "output" and not "".join(lines[end : after.line - 2]).strip()
        yield block, after if is_output else None, printed.getvalue()


def _trimmed(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.strip("\n").splitlines())


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


def main() -> None:
    """Write into pages what their blocks print."""
    for name in sys.argv[1:]:
        page = Path(name).resolve()
        here = Path.cwd()
        with tempfile.TemporaryDirectory() as scratch:
            os.chdir(scratch)
            page.write_text(with_outputs(page), encoding="utf-8")
            os.chdir(here)


if __name__ == "__main__":
    main()
