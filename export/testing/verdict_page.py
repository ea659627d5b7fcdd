"""A verdict as one interactive HTML file: its rows sorted by a column, filtered, with the ratio as a bar."""

from __future__ import annotations

import math
import os
from html import escape
from typing import Final

from export.errors import ArgumentError, WriteError
from export.verdict.verdict_result import Row, Verdict
from pure_export_shared import replacing

__all__ = ["write_html"]


def write_html(verdict: Verdict, path: str | os.PathLike[str], *, title: str | None = None) -> None:
    """Write a verdict as one HTML file that needs nothing else.

    Its table has every row; a click on a heading sorts by that column, and the field above keeps the rows with a text.
    What did not pass stands first.

    Args:
        verdict: what `verify` returned.
        path: the file.
        title: its heading; None for the file that was judged.

    Raises:
        ArgumentError: something else than a verdict.
        WriteError: the path cannot be written.
    """
    if not isinstance(verdict, Verdict):
        raise ArgumentError(f"verdict is {type(verdict).__name__}: expected what export.verify returns")
    order = {"fail": 0, "ambiguous": 1, "pass": 2, "skipped": 3}
    rows = sorted(verdict.rows, key=lambda row: (order[row.status], -(row.ratio or 0.0)))
    heads = "".join(
        f'<th><button type="button" data-column="{index}">{name}</button></th>' for index, name in enumerate(COLUMNS)
    )
    body = "".join(map(_row, rows))
    heading = title or f"Verdict on {os.path.basename(verdict.path)}"
    first, *rest = verdict.table().splitlines()
    below = [line for line in rest if line.startswith("  ") and ": " in line and not _is_row(line, rows)]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(heading)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head><body><main>'
        f'<h1>{escape(heading)}</h1><p class="{verdict.status}">{escape(first)}</p>'
        f'<label>rows with <input type="search" placeholder="a leaf, a case, fail"></label> '
        f"<output>{len(rows)}</output>"
        f'<div tabindex="0" role="region" aria-label="rows"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
        f"<pre>{escape(chr(10).join(line.strip() for line in below))}</pre></main>"
        f"<script>{SCRIPT}</script></body></html>"
    )
    with replacing(path, WriteError) as file:
        file.write(page.encode())


COLUMNS: Final = ("leaf", "case", "dtype", "error", "rounding scale", "ratio", "eager", "limit", "status")


def _is_row(line: str, rows: list[Row]) -> bool:
    return line.split()[:1] in ([row.leaf] for row in rows)


def _row(row: Row) -> str:
    share = 0.0 if row.ratio is None else min(row.ratio / row.limit, 1.0) if row.limit else 1.0
    bar = f'<i style="width:{100 * share:.0f}%"></i>' if row.ratio is not None else ""
    status = row.status + (f": {row.reason}" if row.reason else "")
    texts = [_text(row.leaf), _text(row.case), _text(row.dtype)]
    numbers = [_number(row.error), _number(row.rounding_scale), _number(row.ratio, bar), _number(row.eager)]
    return f'<tr class="{row.status}">{"".join([*texts, *numbers, _number(row.limit), _text(status)])}</tr>'


def _text(text: str) -> str:
    return f'<td data-value="{escape(text, quote=True)}">{escape(text)}</td>'


def _number(value: float | None, bar: str = "") -> str:
    shown = "-" if value is None else f"{value:.3g}"
    rank = "-1" if value is None or math.isnan(value) else f"{value!r}"
    return f'<td class="number" data-value="{rank}">{shown}{bar}</td>'


STYLE: Final = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:1rem;color:#222;background:#fff}h1{font-size:1.2rem}"
    "p.pass{border-left:4px solid #009E73;padding-left:.6em}p.fail,p.ambiguous{border-left:4px solid #D55E00;"
    "padding-left:.6em}p{overflow-wrap:anywhere}div{overflow-x:auto;margin-top:.6rem}"
    "div:focus-visible{outline:2px solid #0072B2}table{border-collapse:collapse;"
    "font-size:.85rem}td,th{padding:.2rem .6rem;text-align:left;border-bottom:1px solid #ddd;white-space:nowrap}"
    "td.number{text-align:right;font-variant-numeric:tabular-nums}td i{display:block;height:3px;background:#0072B2}"
    "tr.fail,tr.ambiguous{background:#fdeee6}th button{font:inherit;font-weight:600;border:0;background:none;padding:0;"
    'min-height:1.6rem;cursor:pointer;color:#222}th button[aria-sort]::after{content:" ↕"}'
    "input{font:inherit;max-width:14rem}pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem}"
)
SCRIPT: Final = """
const body = document.querySelector("tbody"), out = document.querySelector("output");
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const column = Number(button.dataset.column), down = button.getAttribute("aria-sort") !== "descending";
  const value = row => { const v = row.cells[column].dataset.value; return v === "" || isNaN(v) ? v : Number(v); };
  for (const other of document.querySelectorAll("th button")) other.removeAttribute("aria-sort");
  button.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0));
  body.append(...(down ? rows.reverse() : rows));
});
document.querySelector("input").addEventListener("input", event => {
  const wanted = event.target.value.toLowerCase();
  let shown = 0;
  for (const row of body.rows) { row.hidden = !row.textContent.toLowerCase().includes(wanted); shown += !row.hidden; }
  out.textContent = shown;
});
"""
