"""Line charts as inline SVG: no script, colours from the page's style sheet, so that they follow light and dark."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence

from export.app.pages.numbers import power

__all__ = ["BOTTOM", "GAP", "HEIGHT", "TOP", "Axes", "Line", "draw", "limits"]

WIDTH, HEIGHT = 490, 320
LEFT, RIGHT, TOP, BOTTOM = 58, 120, 12, 46
GAP = 16.0
"""Least distance of two labels, in the units of the view box."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One series.

    Attributes:
        name: the classes of its colour and stroke in the style sheet, `s-NAME`.
        label: what stands at its end.
        x: abscissae.
        y: ordinates.
        low: lower edge of its band, empty for none.
        high: upper edge of its band.
    """

    name: str
    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclasses.dataclass(frozen=True)
class Axes:
    """What a chart is drawn in.

    Attributes:
        x_label: quantity and unit.
        y_range: lowest and highest value.
        log: whether the vertical axis is logarithmic; else ordinates are parts of one, written as percentages.
    """

    x_label: str
    y_range: tuple[float, float]
    log: bool = False


def limits(lines: Sequence[Line]) -> tuple[float, float]:
    """Return the whole decades that hold all lines and bands, for a logarithmic axis."""
    values = [v for line in lines for part in (line.y, line.low, line.high) for v in part if v > 0]
    if not values:
        return 0.1, 1.0
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def _ticks(axes: Axes) -> list[tuple[float, str]]:
    low, high = axes.y_range
    if axes.log:
        first, last = round(math.log10(low)), round(math.log10(high))
        step = max(1, math.ceil((last - first) / 7))
        return [(10.0**e, power(e)) for e in range(last, first - 1, -step)]
    return [(part / 4, f"{25 * part} %") for part in range(5) if low <= part / 4 <= high]


def _x_ticks(first: float, last: float) -> list[int]:
    step = next(s for s in (1, 2, 4, 5, 10, 20, 50, 100, 1000) if last / s <= 7)
    inner = [tick for tick in range(0, int(last) + 1, step) if tick >= first]
    return inner if inner and inner[0] == first else [int(first), *inner]


def draw(lines: Sequence[Line], axes: Axes, *, title: str, description: str) -> str:
    """Return the chart as an SVG element.

    Args:
        lines: the series; the first is drawn on top.
        axes: labels and range.
        title: spoken by screen readers as the picture's name.
        description: what can be seen, in a sentence.
    """
    x_last = max((x for line in lines for x in line.x), default=1.0) or 1.0
    x_first = min((x for line in lines for x in line.x), default=0.0)
    low, high = axes.y_range

    def across(x: float) -> float:
        return LEFT + (x - x_first) / ((x_last - x_first) or 1.0) * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        if axes.log:
            part = (math.log10(max(y, low)) - math.log10(low)) / (math.log10(high) - math.log10(low))
        else:
            part = (y - low) / (high - low)
        return HEIGHT - BOTTOM - min(max(part, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(f"{title}. {description}")}">']
    for value, text in _ticks(axes):
        y = up(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in _x_ticks(x_first, x_last):
        x, y = across(tick), HEIGHT - BOTTOM + 17
        parts.append(f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{tick}</text>')
    bottom = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    middle, label = (LEFT + WIDTH - RIGHT) / 2, html.escape(axes.x_label)
    parts.append(f'<text class="label" x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{label}</text>')
    for line in reversed(lines):
        if line.low:
            edge = [(x, y) for x, y in zip(line.x, line.high, strict=True)]
            edge += [(x, y) for x, y in zip(reversed(line.x), reversed(line.low), strict=True)]
            points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in edge)
            parts.append(f'<polygon class="band s-{line.name}" points="{points}"/>')
    for line in reversed(lines):
        points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in zip(line.x, line.y, strict=True))
        spoken = f"<title>{html.escape(line.label)}</title>"
        parts.append(f'<polyline class="line s-{line.name}" points="{points}">{spoken}</polyline>')
    ends = [up(line.y[-1]) for line in lines]
    for line, y, at in zip(lines, ends, _spread(ends), strict=True):
        x = across(line.x[-1])
        parts.append(f'<circle class="dot s-{line.name}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
        parts.append(f'<path class="leader" d="M{x + 5:.1f} {y:.1f} L{x + 13:.1f} {at:.1f}"/>')
        parts.append(f'<text class="name" x="{x + 16:.1f}" y="{at + 4:.1f}">{html.escape(line.label)}</text>')
    parts.append("</svg>")
    return "".join(parts)


def _spread(wanted: Sequence[float]) -> list[float]:
    """Move label heights apart until none is nearer than `GAP` to the next, keeping their order and the frame."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    last = TOP + 4 - GAP
    for i in order:
        placed[i] = last = max(wanted[i], last + GAP)
    limit = HEIGHT - BOTTOM + 4.0
    for i in reversed(order):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - GAP
    return placed
