"""Line charts as one self-contained HTML file: SVG, with the values under the pointer; it fits a phone's width."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from pure.flow.plot.style import COLOURS

__all__ = ["Panel", "line_page"]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 480, 260, 58, 30, 10
"""Units of a chart and of its margins."""
TICKS: Final = 5
FLAT: Final = 0.02
"""The least margin of an axis, in decades or as a share: differences far below it are rounding."""
_Place = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
        title: above it.
        x_name: below it.
        x: where the values are.
        lines: {name: one value for each x}; what is not finite, or not positive on a logarithmic axis, is a gap.
        log: whether the axis of values is logarithmic.
        note: a sentence below the chart.
    """

    title: str
    x_name: str
    x: Sequence[float]
    lines: Mapping[str, Sequence[float]]
    log: bool = False
    note: str = ""


def line_page(title: str, panels: Sequence[Panel], text: str = "") -> str:
    """Return the page: its heading, a chart a panel, and text below them."""
    below = f"<pre>{escape(text)}</pre>" if text else ""
    charts = "".join(_chart(panel) for panel in panels)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head><body>'
        f"<main><h1>{escape(title)}</h1><section>{charts}</section>{below}</main><script>{SCRIPT}</script></body></html>"
    )


def _chart(panel: Panel) -> str:
    drawn = {name: [_value(y, panel.log) for y in ys] for name, ys in panel.lines.items()}
    known = [y for ys in drawn.values() for y in ys if y is not None]
    heading = f"<h2>{escape(panel.title)}</h2>"
    if not known or not panel.x:
        return f"<figure>{heading}<p>nothing was measured</p></figure>"
    low, high = min(known), max(known)
    pad = max(0.06 * (high - low), FLAT if panel.log else FLAT * abs(high), 1e-300)
    low, high = low - pad, high + pad
    first, last = min(panel.x), max(panel.x)
    span = last - first or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - first) / span * (WIDTH - LEFT - 10)
        return round(across, 1), round(TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    parts = [_axis(low, high, panel.log, at(first, low)[1], at), _bottom(first, last, panel.x_name, at, low)]
    points = []
    for index, (name, ys) in enumerate(drawn.items()):
        colour = COLOURS[index % len(COLOURS)]
        dash = ("", "6 3", "2 3")[index // len(COLOURS) % 3]
        run: list[str] = []
        for x, y in [*zip(panel.x, ys, strict=True), (0.0, None)]:
            if y is not None:
                place = at(x, y)
                run.append(f"{place[0]},{place[1]}")
                points.append([*place, name, x, 10**y if panel.log else y])
            elif run:
                parts.append(_run(run, colour, dash))
                run = []
    names = "".join(
        f'<span><i style="background:{COLOURS[index % len(COLOURS)]}"></i>{escape(name)}</span>'
        for index, name in enumerate(drawn)
    )
    legend = f"<details{' open' if len(drawn) <= 8 else ''}><summary>{len(drawn)} lines</summary>{names}</details>"
    note = f"<p>{escape(panel.note)}</p>" if panel.note else ""
    data = escape(json.dumps(points), quote=True)
    return (
        f'<figure>{heading}<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(panel.title)}" '
        f'data-points="{data}" data-x="{escape(panel.x_name)}">{"".join(parts)}<circle r="4" class="mark"/></svg>'
        f"<output>&nbsp;</output>{legend if len(drawn) > 1 else ''}{note}</figure>"
    )


def _value(y: float, log: bool) -> float | None:
    if not math.isfinite(y) or (log and y <= 0):
        return None
    return math.log10(y) if log else float(y)


def _run(points: list[str], colour: str, dash: str) -> str:
    if len(points) == 1:
        x, y = points[0].split(",")
        return f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>'
    style = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.6"{style}/>'


def _axis(low: float, high: float, log: bool, bottom: float, at: _Place) -> str:
    ticks = [low + (high - low) * index / (TICKS - 1) for index in range(TICKS)]
    rows = []
    for tick in ticks:
        y = at(0.0, tick)[1]
        shown = f"{10**tick:.2g}" if log else f"{tick:.3g}"
        rows.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y}" y2="{y}"/><text x="{LEFT - 5}" y="{y + 4}" '
            f'text-anchor="end">{shown}</text>'
        )
    return "".join(rows)


def _bottom(first: float, last: float, name: str, at: _Place, low: float) -> str:
    ends = [(first, "start"), (last, "end")] if last > first else [(first, "start")]
    marks = "".join(
        f'<text x="{at(x, low)[0]}" y="{HEIGHT - 12}" text-anchor="{anchor}">{x:g}</text>' for x, anchor in ends
    )
    return f'{marks}<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(name)}</text>'


STYLE: Final = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:1rem;color:#222;background:#fff}h1{font-size:1.2rem}"
    "section{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,25rem),1fr));gap:1.2rem}"
    "figure{margin:0;min-width:0}h2{font-size:.95rem;margin:.2rem 0}svg{width:100%;height:auto;touch-action:pan-y}"
    "svg line{stroke:#ddd}svg text{font-size:11px;fill:#444}output{display:block;font-size:.8rem;min-height:1.3em}"
    ".mark{fill:none;stroke:#000;visibility:hidden}details span{display:inline-block;margin-right:.8em;font-size:.8rem}"
    "details i{display:inline-block;width:.8em;height:.8em;margin-right:.3em}summary{font-size:.8rem}"
    "figure p{font-size:.85rem;margin:.3rem 0}pre{overflow-x:auto;font-size:.75rem;white-space:pre-wrap;columns:26rem}"
)
SCRIPT: Final = """
for (const svg of document.querySelectorAll("svg[data-points]")) {
  const points = JSON.parse(svg.dataset.points), out = svg.nextElementSibling, mark = svg.querySelector(".mark");
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let best = null, least = Infinity;
    for (const p of points) { const d = (p[0] - x) ** 2 + (p[1] - y) ** 2; if (d < least) { least = d; best = p; } }
    if (!best) return;
    mark.setAttribute("cx", best[0]); mark.setAttribute("cy", best[1]); mark.style.visibility = "visible";
    out.textContent = `${best[2]}: ${best[4].toPrecision(4)} at ${svg.dataset.x} ${best[3]}`;
  });
}
"""
