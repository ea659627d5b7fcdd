"""The documentation's pages: found, cut to a section, printed, or built as a site."""

from __future__ import annotations

import logging
import re
import unicodedata
from pathlib import Path
from typing import Final

import export
from export.errors import ArgumentError, WriteError, listed, nearest

__all__ = ["build", "page", "pages", "section"]

START: Final = "index"
"""The page that the others are found from."""


def home() -> Path:
    """Return the folder with mkdocs.yml and docs: that of the checkout, or the one inside the installed package."""
    package = Path(export.__file__).parent
    for folder in (package.parent, package / "site"):
        if (folder / "mkdocs.yml").is_file() and (folder / "docs" / f"{START}.md").is_file():
            return folder
    raise ArgumentError("the documentation's pages are not installed; run pure-export docs in a checkout")


def pages() -> dict[str, str]:
    """Return the title of every written page by its name, such as "how-to/opsets", in the order of the navigation.

    The catalogue's and the API's pages are not among them.

    Raises:
        ArgumentError: if the pages are not installed.
    """
    folder = home() / "docs"
    found = {}
    for path in sorted(folder.rglob("*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        found[path.relative_to(folder).with_suffix("").as_posix()] = title
    navigation = (home() / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    order = [name for name in re.findall(r"- (\S+)\.md$", navigation, re.MULTILINE) if name in found]
    return {name: found[name] for name in dict.fromkeys([*order, *found])}


def page(name: str) -> str:
    """Return a page, or a section of one, as Markdown.

    Args:
        name: "how-to/opsets", the same with an ending, its last part where that is enough ("opsets"), or with an
            anchor: "errors#shapeerror".

    Raises:
        ArgumentError: if there is no such page or section; the message has the nearest names.
    """
    wanted, _, anchor = name.partition("#")
    wanted = re.sub(r"\.(md|html)$", "", wanted)
    known = pages()
    fitting = [other for other in known if other == wanted] or [
        other for other in known if other.rpartition("/")[2].lower() == wanted.lower()
    ]
    if len(fitting) != 1:
        near = nearest(wanted, known)
        raise ArgumentError(f"there is no page {wanted!r}{near}; pure-export docs lists them")
    text = (home() / "docs" / f"{fitting[0]}.md").read_text(encoding="utf-8")
    return section(text, anchor, fitting[0]) if anchor else text


def section(text: str, anchor: str, name: str) -> str:
    r"""Return the section of a page whose heading has an anchor, down to the next heading of its level.

    Args:
        text: the page.
        anchor: as the site makes it of the heading.
        name: of the page, for the message.

    Raises:
        ArgumentError: if no heading has it.

    Example:
        >>> section("# T\n\n## One Two\n\na\n\n## Three\n", "one-two", "t")
        '## One Two\n\na\n'
    """
    headings = _headings(text)
    for position, (heading, level, start) in enumerate(headings):
        if slug(heading) == anchor.lower():
            later = (begin for _, other, begin in headings[position + 1 :] if other <= level)
            return text[start : next(later, len(text))].rstrip() + "\n"
    anchors = [slug(heading) for heading, _, _ in headings]
    raise ArgumentError(f"the page {name!r} has no section {anchor!r}{nearest(anchor, anchors)}")


def slug(heading: str) -> str:
    """Return the anchor of a heading, by the rule of Python-Markdown.

    >>> slug("export.jit against torch.compile")
    'exportjit-against-torchcompile'
    """
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def _headings(text: str) -> list[tuple[str, int, int]]:
    """Return every heading with its level and place; lines of code blocks are none."""
    found, place, in_code = [], 0, False
    for line in text.splitlines(keepends=True):
        if line.startswith("```"):
            in_code = not in_code
        elif not in_code and (match := re.match(r"(#+) (.+)", line)):
            found.append((match[2].strip(), len(match[1]), place))
        place += len(line)
    return found


class _Warnings(logging.Handler):
    """Keeps what is warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning."""
        self.lines.append(record.getMessage())


def build(folder: Path) -> Path:
    """Build the site, strictly: a broken link or a page outside the navigation fails it.

    Args:
        folder: where to write it; an earlier site there is replaced.

    Returns:
        The first page.

    Raises:
        ArgumentError: if mkdocs is not installed.
        WriteError: if the folder holds other files than a site, or the build fails.
    """
    try:
        from mkdocs.commands.build import build as build_site  # comes with the extra `docs`
        from mkdocs.config import load_config
        from mkdocs.exceptions import MkDocsException
    except ImportError as error:
        raise ArgumentError(
            "building the site needs mkdocs, which is not installed; pip install 'pure-export[docs]', or read a page "
            "in the terminal: pure-export docs index"
        ) from error
    if folder.exists() and any(folder.iterdir()) and not (folder / "search").is_dir():
        raise WriteError(f"{folder} holds other files than a site; give a new or an empty folder")
    said = _Warnings()
    log = logging.getLogger("mkdocs")
    log.addHandler(said)
    try:
        config = load_config(str(home() / "mkdocs.yml"), site_dir=str(folder.absolute()), strict=True)
        config.plugins.on_startup(command="build", dirty=False)
        build_site(config)
        config.plugins.on_shutdown()
    except MkDocsException as error:
        raise WriteError(f"the site was not built: {error}{listed(said.lines)}") from error
    finally:
        log.removeHandler(said)
    return folder / f"{START}.html"
