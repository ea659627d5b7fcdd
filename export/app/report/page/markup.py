"""Small pieces of HTML: tables, badges, definition lists, legends."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from export.app.report.digits import Network


def text(value: object) -> str:
    """Return a value as escaped text."""
    return html.escape(str(value))


def badge(status: str) -> str:
    """Return a verdict's status as a coloured word."""
    return f'<span class="badge {text(status)}">{text(status)}</span>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Iterable[int] = (), caption: str = "") -> str:
    """Return a table that scrolls inside its box.

    Args:
        head: Column titles, as text.
        rows: Cells, as HTML.
        numeric: Columns that are aligned right.
        caption: What the table shows, as text.
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


def definitions(pairs: Iterable[tuple[str, object]]) -> str:
    """Return names and values one below the other."""
    return f"<dl>{''.join(f'<dt>{text(name)}</dt><dd>{text(value)}</dd>' for name, value in pairs)}</dl>"


def legend(networks: Iterable[Network]) -> str:
    """Return the key of the line charts."""
    items = []
    for network in networks:
        sample = f'<path class="line s-{network.name}" d="M1 5 H29"/>'
        items.append(f'<li><svg viewBox="0 0 30 10" aria-hidden="true">{sample}</svg>{text(network.title)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def figure(drawing: str, caption: str, *, title: str = "") -> str:
    """Return a picture with its caption; both are HTML."""
    head = f"<h3>{text(title)}</h3>" if title else ""
    said = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure class="card">{head}{drawing}{said}</figure>'


def details(summary: str, body: str) -> str:
    """Return something that is folded away until it is asked for."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"
