"""The catalogue as pages of the documentation's site: one a row, one a family, and where to begin."""

from __future__ import annotations

from collections.abc import Sequence

from export.app.pages.markup import text
from export.app.pages.style import DRAWING, DRAWING_COLOURS
from export.app.reference import checked
from export.app.reference.catalogue_page import ABOUT, drawing_key, row_parts
from pure.catalogue import CASES, FAMILIES, Case

__all__ = ["FOLDER", "navigation", "pages", "style_sheet"]

FOLDER = "catalogue"
"""Where the pages lie in the site."""


def pages(cases: Sequence[Case] = CASES) -> dict[str, str]:
    """Return the Markdown of every page by its path.

    Args:
        cases: the rows.
    """
    known = checked.load().get("rows", {})
    written = {f"{FOLDER}/index.md": _start(cases)}
    for family, rows in _families(cases):
        written[f"{FOLDER}/{family}/index.md"] = _family(family, rows)
        for case in rows:
            parts = row_parts(case, known)
            written[f"{FOLDER}/{family}/{case.name}.md"] = (
                f'# {case.name}\n\n<p class="formula">{text(case.formula)}</p>\n\n'
                f'<div class="drawing">{parts.drawing}</div>\n\n{parts.definitions}\n\n'
                f"## How to call it\n\n```python\n{parts.code}\n```\n\n"
                f"More of its kind: [{family}](index.md).\n"
            )
    return written


def navigation(cases: Sequence[Case] = CASES) -> list[object]:
    """Return the part of the site's navigation that lists the pages."""
    families: list[object] = [f"{FOLDER}/index.md"]
    for family, rows in _families(cases):
        paths = [f"{FOLDER}/{family}/index.md", *(f"{FOLDER}/{family}/{case.name}.md" for case in rows)]
        families.append({family.capitalize(): paths})
    return families


def style_sheet() -> str:
    """Return the CSS of the diagrams under the site's light and dark colours."""
    page = {
        "default": "--card: #ffffff; --ink: #0b0b0b; --soft: #52514e;",
        "slate": "--card: #1a1a19; --ink: #ffffff; --soft: #c3c2b7;",
    }
    colours = {"default": DRAWING_COLOURS["light"], "slate": DRAWING_COLOURS["dark"]}
    schemes = "".join(
        f'[data-md-color-scheme="{scheme}"] {{ {page[scheme]} {rules.strip()} }}\n' for scheme, rules in colours.items()
    )
    return schemes + DRAWING


def _families(cases: Sequence[Case]) -> list[tuple[str, list[Case]]]:
    found = [(family, [case for case in cases if case.family == family]) for family in FAMILIES]
    return [(family, rows) for family, rows in found if rows]


def _start(cases: Sequence[Case]) -> str:
    lines = [f"| [{family}]({family}/index.md) | {len(rows)} | {ABOUT[family]} |" for family, rows in _families(cases)]
    listed = "\n".join(lines)
    return (
        f"# The catalogue: {len(cases)} blocks\n\n"
        "Find the block that you read about in a paper, with its formula, diagram, initial values, leaves and call. "
        "Every row is a pure function over a tree of parameters: `params, state = block.init(generator)`, then "
        "`y = block(params, x, state, extras)`. Shapes have the batch first.\n\n"
        "The tests hold each row against an independent implementation in float64 (its *oracle*): outputs, gradients "
        "and new state, in training and evaluation. Its ONNX file passes the [verdict](../explanations/verdicts.md) in "
        "float32 and float16, or the page says which operation ONNX Runtime lacks.\n\n"
        f"| family | rows | what they have in common |\n|---|--:|---|\n{listed}\n\n"
        f"How to read the diagrams:\n\n{drawing_key()}\n\n"
        "`pure-export list` prints the rows in a terminal (`--family gated` a few of them), and "
        "`pure-export reference` writes all of them as one HTML file. How blocks are put together: "
        "[Compose blocks](../how-to/compose-blocks.md).\n"
    )


def _family(family: str, rows: Sequence[Case]) -> str:
    lines = "\n".join(f"| [{case.name}]({case.name}.md) | {_cell(case.formula)} |" for case in rows)
    return f"# {family.capitalize()}\n\n{ABOUT[family]}\n\n| row | formula |\n|---|---|\n{lines}\n"


def _cell(formula: str) -> str:
    """Return a formula as it may stand in a cell of a Markdown table."""
    escaped = text(formula).replace("|", "&#124;")
    return "".join(f"\\{sign}" if sign in "*_[]`" else sign for sign in escaped)
