"""The reference page: every row of the catalogue with its formula, leaves, call and drawing; nothing is fetched."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from export.app.pages.markup import badge, definitions, details, key, page, text
from export.app.pages.style import CATALOGUE, SCRIPT
from export.app.reference import checked
from export.app.reference.drawing import drawn
from export.app.reference.facts import Entry, Facts, facts
from export.app.reference.flow import flow_of
from export.app.reference.snippet import snippet
from export.app.reference.structure import drawing_of, has_unknown
from export.errors import WriteError
from pure.catalogue import CASES, FAMILIES, Case
from pure_export_shared import replacing

__all__ = ["ABOUT", "RowParts", "drawing_key", "linked", "render", "row_parts", "write"]

MAX_OPEN_LINES = 10
"""A list of more lines than this is folded."""
ARXIV = re.compile(r"(?<![\d./])(\d{4}\.\d{4,5})(?!\d)")

ABOUT: dict[str, str] = {
    "layer": "One operation each; what everything else is made of.",
    "shortcut": "What is carried past a branch that changes the shape.",
    "additive": "The stream plus a branch.",
    "scaled": "The branch or the stream times a constant or learnt factor.",
    "gated": "Factors between 0 and 1, computed from the input.",
    "dense": "Earlier outputs joined or mixed.",
    "streams": "Several streams side by side.",
    "reversible": "The input can be computed from the output.",
    "dynamic": "What runs depends on a signal.",
    "transformer": "Attention and what goes around it.",
    "composition": "Blocks put together.",
    "network": "Whole networks.",
}
"""What the rows of a family have in common."""


def write(path: str | os.PathLike[str]) -> int:
    """Write the page, whole or not at all, and return how many rows it has.

    Args:
        path: the file.

    Raises:
        WriteError: if the file cannot be written.
    """
    with replacing(path, WriteError) as file:
        file.write(render().encode())
    return len(CASES)


def render(cases: Sequence[Case] = CASES, record: Mapping[str, Any] | None = None) -> str:
    """Return the page's HTML.

    Args:
        cases: the rows.
        record: what was measured of them, as `checked.load` gives it; None reads that.
    """
    known = checked.load() if record is None else record
    families = [(family, [case for case in cases if case.family == family]) for family in FAMILIES]
    families = [(family, rows) for family, rows in families if rows]
    sections = [_section(family, rows, known.get("rows", {})) for family, rows in families]
    body = (
        f'{_header(len(cases))}\n<div class="cols">{_contents(families)}\n<div>{_search()}{"".join(sections)}'
        f"{_environment(known)}</div></div>"
    )
    return page("pure-export catalogue", body, style=CATALOGUE, script=SCRIPT)


def _header(count: int) -> str:
    return (
        f"<header><h1>The catalogue: {count} blocks</h1>"
        '<p class="soft">Every row is a pure function over a tree of parameters: '
        "<code>params, state = block.init(generator)</code>, then <code>y = block(params, x, state, extras)</code>. "
        "Shapes have the batch first. The tests hold each row against its oracle in float64: outputs, gradients, new "
        f"state.</p>{drawing_key()}</header>"
    )


def drawing_key() -> str:
    """Return the key of the diagrams, as HTML."""
    samples = (
        ('<rect class="b weights" x="1" y="1" width="32" height="16" rx="4"/>', "has parameters"),
        ('<rect class="b plain" x="1" y="1" width="32" height="16" rx="4"/>', "has none"),
        ('<rect class="b block" x="1" y="1" width="32" height="16" rx="4"/>', "more parts, not drawn"),
        ('<rect class="b node" x="1" y="1" width="32" height="16" rx="8"/>', "parts meet as the formula says"),
        ('<path class="a" d="M1 9H33"/>', "carried past"),
        ('<circle class="j" cx="17" cy="9" r="8"/><path class="s" d="M12.5 9h9M17 4.5v9"/>', "sum"),
        ('<circle class="j" cx="17" cy="9" r="8"/><path class="s" d="M13.6 5.6l6.8 6.8m0 -6.8l-6.8 6.8"/>', "product"),
    )
    return key(samples, width=34, height=18, css_class="d")


def _search() -> str:
    return (
        '<div class="search" hidden><label for="search">Search</label>'
        '<input id="search" type="search" placeholder="name, formula, source, leaf" autocomplete="off">'
        '<output id="found" for="search" aria-live="polite"></output></div>'
    )


def _contents(families: Iterable[tuple[str, Sequence[Case]]]) -> str:
    items = []
    for family, rows in families:
        names = "".join(f'<li><a href="#{text(case.name)}">{text(case.name)}</a></li>' for case in rows)
        items.append(
            f'<li><details><summary><a href="#family-{family}">{family}</a> <span class="count">{len(rows)}</span>'
            f"</summary><ul>{names}</ul></details></li>"
        )
    return f'<nav aria-label="Contents"><h2>Families</h2><ol>{"".join(items)}</ol></nav>'


def _section(family: str, rows: Sequence[Case], known: Mapping[str, Any]) -> str:
    body = "".join(_row(case, known) for case in rows)
    return (
        f'<section data-family="{family}"><h2 id="family-{family}">{family.capitalize()} '
        f'<span class="count">{len(rows)}</span></h2><p class="soft">{text(ABOUT[family])}</p>{body}</section>\n'
    )


def _measured(case: Case, known: Mapping[str, Any]) -> Any:
    """Return what was measured of the row as it is now; what was measured of an earlier one is not shown."""
    found = known.get(case.name)
    return found if found and found.get("fingerprint", "") in ("", checked.fingerprint(case)) else None


@dataclass(frozen=True)
class RowParts:
    """What the page of a row is made of.

    Attributes:
        definitions: source, initial values, shapes, leaves, oracle, checks, as HTML.
        code: a program that makes the block and calls it, as text.
        drawing: the diagram, as SVG.
    """

    definitions: str
    code: str
    drawing: str


def row_parts(case: Case, known: Mapping[str, Any]) -> RowParts:
    """Return what is shown of a row.

    Args:
        case: the row.
        known: what was measured, by row.
    """
    found = facts(case)
    flow = flow_of(case) if has_unknown(found.block) else None
    drawing = drawn(drawing_of(found.block, flow), f"Diagram of {case.name}")
    return RowParts(_definitions(case, found, _measured(case, known)), snippet(case), drawing)


def _row(case: Case, known: Mapping[str, Any]) -> str:
    """Return the card of one row."""
    parts, name = row_parts(case, known), text(case.name)
    return (
        f'<article class="card row" id="{name}"><div><h3><a href="#{name}">{name}</a></h3>'
        f'<p class="formula">{text(case.formula)}</p>{parts.definitions}'
        f'<pre class="code" tabindex="0" aria-label="how to call {name}"><code>{text(parts.code)}</code></pre></div>'
        f'<div class="drawing">{parts.drawing}</div></article>\n'
    )


def _definitions(case: Case, found: Facts, measured: Any) -> str:
    noise = "drawn by <code>block.noise</code>, needed in training" if found.noise else ""
    oracle = "code written for the tests from the formula" if case.oracle == "formula" else text(case.oracle)
    pairs = [
        ("source", linked(case.source)),
        ("initial values", text(case.init)),
        ("shapes", f"{text(found.x)} → {text(found.y)}"),
        ("parameters", _parameters(found)),
        ("state", _entries(found.state)),
        ("extras", _entries(found.extras)),
        ("noise", noise),
        ("tags", _entries(found.tags)),
        ("oracle", oracle),
        ("checked", _checked(measured)),
    ]
    return definitions((label, value) for label, value in pairs if value)


def _parameters(found: Facts) -> str:
    if not found.leaves:
        return "none"
    return f"{found.parameters:,}{_entries(found.leaves)}"


def _entries(entries: Sequence[Entry]) -> str:
    """Return names with shapes, folded where there are many."""
    if not entries:
        return ""
    lines = "".join(
        f"<li><code>{text(entry.name)}</code> {text(entry.shape)}"
        + (f' <span class="k">{text(entry.kind)}</span>' if entry.kind else "")
        + "</li>"
        for entry in entries
    )
    listing = f'<ul class="leaves">{lines}</ul>'
    return listing if len(entries) <= MAX_OPEN_LINES else details(f"{len(entries)} lines", listing)


def linked(source: str) -> str:
    """Return a source as HTML in which arXiv's numbers are links.

    >>> linked("He et al. 2015 (1512.03385)")
    'He et al. 2015 (<a href="https://arxiv.org/abs/1512.03385">1512.03385</a>)'
    """
    return ARXIV.sub(r'<a href="https://arxiv.org/abs/\1">\1</a>', text(source))


def _checked(measured: Any) -> str:
    lines = []
    for what, status, said in checked.findings(measured):
        mark = f" {badge(status)}" if status else ""
        lines.append(f"<li>{text(what)}:{mark} {text(said)}</li>")
    return f'<ul class="leaves">{"".join(lines)}</ul>'


def _environment(known: Mapping[str, Any]) -> str:
    where = known.get("environment")
    if not where:
        return ""
    said = where if isinstance(where, str) else json.dumps(where, indent=1, ensure_ascii=False, sort_keys=True)
    return f'<section class="card">{details("Where the rows were checked", f"<pre>{text(said)}</pre>")}</section>'
