"""A block as a tree for notebooks: every level folds, and equal neighbours are shown once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from html import escape
from itertools import groupby
from typing import Any, Final, Protocol

__all__ = ["block_html"]

OPEN_LEVELS: Final = 2
"""Levels of the tree that are unfolded at first."""
MAX_LETTERS: Final = 160
"""Letters of a line, beyond which it is cut."""
PLAIN: Final = (bool, int, float, str)


class Tree(Protocol):
    """What is shown: something with named children."""

    def children(self) -> Mapping[str, Any]:
        """Return the children by name."""


def block_html(block: Tree, name: str = "", level: int = 0) -> str:
    """Return the tree of a block as HTML without script, folded below the second level.

    Neighbouring children that are equal are one line, such as "0 … 11 (12 ×)".

    Args:
        block: its root.
        name: in front of it.
        level: how deep it stands.

    Example:
        >>> from pure import Linear, Sequential
        >>> page = block_html(Sequential(*[Linear(2, 2)] * 12))
        >>> page.count("Linear"), "0 … 11 (12 ×)" in page, page.startswith("<details open")
        (1, True, True)
    """
    children = block.children()
    label = f"<b>{escape(name)}</b> " if name else ""
    if not children:
        return f'<div style="margin-left:1.1em">{label}<code>{escape(_line(repr(block)))}</code></div>'
    runs = [list(run) for _, run in groupby(children.items(), key=_Equal)]
    inside = "".join(block_html(run[0][1], _names([entry for entry, _ in run]), level + 1) for run in runs)
    unfolded = " open" if level < OPEN_LEVELS else ""
    head = f"{label}<code>{escape(_line(_own(block)))}</code>"
    return f'<details{unfolded} style="margin-left:1.1em"><summary>{head}</summary>{inside}</details>'


class _Equal:
    """A key under which equal blocks are equal; blocks that hold functions have no order and perhaps no hash."""

    def __init__(self, item: tuple[str, Any]) -> None:
        self.block = item[1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Equal) and type(self.block) is type(other.block) and bool(self.block == other.block)

    __hash__ = None  # type: ignore[assignment]


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]} ({len(names)} ×)"


def _line(text: str) -> str:
    return text if len(text) <= MAX_LETTERS else f"{text[: MAX_LETTERS - 1]}…"


def _own(block: Any) -> str:
    """Return the block without its children: its type and the numbers it was given."""
    given = fields(block) if is_dataclass(block) else ()
    shown = [
        f"{entry.name}={getattr(block, entry.name)!r}"
        for entry in given
        if isinstance(getattr(block, entry.name, None), PLAIN)
        and (entry.default is MISSING or getattr(block, entry.name) != entry.default)
    ]
    return f"{type(block).__name__}({', '.join(shown)})"
