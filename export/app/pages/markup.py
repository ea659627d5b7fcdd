"""Pieces of HTML: a whole page, tables, badges, definition lists, keys of drawings."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from export.app.pages.style import SHARED

__all__ = ["badge", "definitions", "details", "figure", "key", "page", "table", "text"]


def page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Return a whole self-contained page: inline style and script, nothing fetched.

    Args:
        title: its title, as text.
        body: what is inside of `main`, as HTML.
        style: CSS in addition to what all pages share.
        script: JavaScript, run at the end.
    """
    run = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{SHARED}{style}</style></head>\n"
        f"<body><main>\n{body}\n</main>{run}</body></html>\n"
    )


def text(value: object) -> str:
    """Return a value as escaped text."""
    return html.escape(str(value))


def badge(status: str) -> str:
    """Return a verdict's status as a coloured word."""
    return f'<span class="badge {text(status)}">{text(status)}</span>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Iterable[int] = (), caption: str = "") -> str:
    """Return a table that scrolls inside its box.

    Args:
        head: column titles, as text.
        rows: cells, as HTML.
        numeric: columns that are aligned right.
        caption: what the table shows, as text.
    """
    right = set(numeric)
    cell_class = ['class="n"' if i in right else "" for i in range(len(head))]
    heads = "".join(f'<th scope="col" {cell_class[i]}>{text(word)}</th>' for i, word in enumerate(head))
    lines = []
    for row in rows:
        first = f'<th scope="row">{row[0]}</th>'
        rest = "".join(f"<td {cell_class[i]}>{cell}</td>" for i, cell in enumerate(row[1:], start=1))
        lines.append(f"<tr>{first}{rest}</tr>")
    title = f"<caption>{text(caption)}</caption>" if caption else ""
    label = f' aria-label="{text(caption)}"' if caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="region"{label}><table>{title}<thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names, as text, and values, as HTML, one below the other."""
    return f"<dl>{''.join(f'<dt>{text(name)}</dt><dd>{value}</dd>' for name, value in pairs)}</dl>"


def key(marks: Iterable[tuple[str, str]], *, width: int, height: int, css_class: str = "") -> str:
    """Return the key of a drawing.

    Args:
        marks: what is explained, as SVG, and its meaning, as text.
        width: width of a mark's view box.
        height: height of a mark's view box.
        css_class: class of the marks' drawings.
    """
    box = f'class="{css_class}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true"'
    items = (f"<li><svg {box}>{mark}</svg>{text(meaning)}</li>" for mark, meaning in marks)
    return f'<ul class="key">{"".join(items)}</ul>'


def figure(drawing: str, caption: str, *, title: str = "") -> str:
    """Return a picture with its caption; both are HTML."""
    head = f"<h3>{text(title)}</h3>" if title else ""
    said = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure class="card">{head}{drawing}{said}</figure>'


def details(summary: str, body: str) -> str:
    """Return something that is folded away until it is asked for."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"
