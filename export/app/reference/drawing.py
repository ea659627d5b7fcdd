"""Drawings of blocks as SVG: every part says how large it is and where its wire runs, then draws itself."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any, Final

from export.app.reference.structure import Box, Column, Fork, Frame, Gate, Skip, Wire

__all__ = ["drawn", "size_of"]

GAP: Final = 18
"""Between parts one below the other: the length of an arrow."""
LANE: Final = 20
"""Between a branch and the wire past it."""
RADIUS: Final = 9
MAX_LEFT_TITLE_WIDTH: Final = 60
"""A title narrower than this makes room left of the wire, a wider one stands right of it."""
CHARACTER_WIDTH: Final = 6.7
"""Width of a character in the boxes, roughly."""


@dataclass(frozen=True)
class Size:
    """Width, height, and how far from the left the wire enters and leaves."""

    width: int
    height: int
    wire: int


def drawn(node: Any, label: str) -> str:
    """Return the SVG of a drawing with its input above and its output below."""
    size = size_of(node)
    pen = Pen()
    top, left = 24, 8
    pen.text(left + size.wire, 10, "x", "io")
    pen.enter(node, left + size.wire, 14, top + 8)
    draw(node, left, top + 8, pen)
    bottom = top + 8 + size.height
    pen.arrow(left + size.wire, bottom, left + size.wire, bottom + 14)
    pen.text(left + size.wire, bottom + 26, "y", "io")
    width, height = size.width + 2 * left, bottom + 32
    return (
        f'<svg class="d" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{html.escape(label)}">{pen.drawn()}</svg>'
    )


class Pen:
    """Collects lines, one path a style, and the marks that stand on them."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {}
        self.marks: list[str] = []

    def drawn(self) -> str:
        """Return everything, lines below."""
        paths = (f'<path class="{style}" d="{"".join(lines)}"/>' for style, lines in self.lines.items())
        return "".join([*paths, *self.marks])

    def text(self, x: float, y: float, words: str, style: str = "") -> None:
        """Write words with their middle at x."""
        named = f' class="{style}"' if style else ""
        self.marks.append(f'<text{named} x="{x:g}" y="{y:g}">{html.escape(words)}</text>')

    def path(self, path: str, style: str = "w") -> None:
        """Draw a line."""
        self.lines.setdefault(style, []).append(path)

    def arrow(self, x: float, y: float, x2: float, y2: float, style: str = "w") -> None:
        """Draw a line that ends in a head, downwards or sideways."""
        self.path(f"M{x:g} {y:g}" + (f"V{y2:g}" if x == x2 else f"H{x2:g}" if y == y2 else f"L{x2:g} {y2:g}"), style)
        if x == x2:
            self.path(f"M{x - 3.5:g} {y2 - 6:g}l3.5 6 3.5-6z", f"h {style}")
        else:
            way = 6 if x2 > x else -6
            self.path(f"M{x2 - way:g} {y2 - 3.5:g}l{way} 3.5 {-way} 3.5z", f"h {style}")

    def enter(self, node: Any, x: float, y: float, y2: float, style: str = "w") -> None:
        """Draw the line down into a part, with a head unless the part begins with a line of its own."""
        if leads(node):
            self.path(f"M{x:g} {y:g}V{y2:g}", style)
        else:
            self.arrow(x, y, x, y2, style)

    def rect(self, x: float, y: float, width: float, height: float, style: str, radius: int = 5) -> None:
        """Draw a box."""
        self.marks.append(
            f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}"/>'
        )

    def join(self, x: float, y: float, sign: str) -> None:
        """Draw the node in which wires meet: a circle for + and ×, else a pill with words."""
        if sign in ("+", "×"):
            self.marks.append(f'<circle class="j" cx="{x:g}" cy="{y:g}" r="{RADIUS}"/>')
            plus = f"M{x - 4.5:g} {y:g}h9M{x:g} {y - 4.5:g}v9"
            cross = f"M{x - 3.4:g} {y - 3.4:g}l6.8 6.8m0 -6.8l-6.8 6.8"
            self.marks.append(f'<path class="s" d="{plus if sign == "+" else cross}"/>')
        else:
            half = join_half(sign)
            self.rect(x - half, y - RADIUS, 2 * half, 2 * RADIUS, "j", RADIUS)
            self.text(x, y + 4, sign)


def leads(node: Any) -> bool:
    """Return whether a part begins with a line, and not with a box."""
    if isinstance(node, Column):
        return leads(node.parts[0])
    return not isinstance(node, Box)


def join_half(sign: str) -> float:
    """Return half the width of a joining node."""
    return RADIUS if sign in ("+", "×") else max(len(sign) * CHARACTER_WIDTH / 2 + 8, RADIUS)


def size_of(node: Any) -> Size:
    """Return how much room a part takes."""
    if isinstance(node, Wire):
        return Size(12, 20, 6)
    if isinstance(node, Box):
        longest = max(len(node.title) * 1.06, len(node.detail) * 0.95)
        width = 2 * round((max(longest * CHARACTER_WIDTH, 34) + 18) / 2)
        return Size(width, 38 if node.detail else 24, width // 2)
    if isinstance(node, Column):
        sizes = [size_of(entry) for entry in node.parts]
        wire = max(size.wire for size in sizes)
        right = max(size.width - size.wire for size in sizes)
        gap = GAP if node.arrows else 8
        return Size(wire + right, sum(size.height for size in sizes) + gap * (len(sizes) - 1), wire)
    if isinstance(node, Frame):
        inner = size_of(node.body)
        title = round(len(node.title) * CHARACTER_WIDTH) + 14
        wire = max(inner.wire + 10, title) if title < MAX_LEFT_TITLE_WIDTH and node.title else inner.wire + 10
        top = 24 if node.title else 12
        right = max(inner.width - inner.wire + 10, 0 if wire >= title else title)
        return Size(wire + right, inner.height + top + 10, wire)
    if isinstance(node, Skip):
        branch, lane = size_of(node.branch), size_of(node.shortcut)
        half = round(join_half(node.join))
        wire, right = max(branch.wire, half), max(branch.width - branch.wire, half)
        height = max(branch.height, lane.height) + 16 + GAP + 2 * RADIUS
        return Size(wire + right + LANE + lane.width, height, wire)
    if isinstance(node, Gate):
        gate, transform = size_of(_gate(node)), size_of(node.transform)
        height = max(gate.height, transform.height)
        wide = gate.width + LANE + transform.width + LANE + 12 + 34
        return Size(wide, 16 + height + GAP + 4 * RADIUS + GAP, gate.width + LANE + transform.wire)
    if isinstance(node, Fork):
        sizes = [size_of(arm) for arm in node.arms]
        width = sum(size.width for size in sizes) + LANE * (len(sizes) - 1)
        width = max(width, round(2 * join_half(node.join)) + 4 if node.join else 0)
        below = GAP + 2 * RADIUS if node.join else 6
        return Size(width, 16 + max(size.height for size in sizes) + below, width // 2)
    raise TypeError(f"no drawing of {type(node).__name__}")


def _gate(node: Gate) -> Column:
    return Column((node.gate, Box("σ")))


def draw(node: Any, x: float, y: float, pen: Pen) -> None:
    """Draw a part whose upper left corner is at (x, y)."""
    size = size_of(node)
    if isinstance(node, Wire):
        pen.path(f"M{x + size.wire:g} {y:g}V{y + size.height:g}")
    elif isinstance(node, Box):
        _box(node, x, y, size, pen)
    elif isinstance(node, Column):
        _column(node, x, y, size, pen)
    elif isinstance(node, Frame):
        pen.rect(x, y, size.width, size.height, "f", 8)
        top = 24 if node.title else 12
        wire = x + size.wire
        pen.enter(node.body, wire, y, y + top)
        pen.path(f"M{wire:g} {y + size.height - 10:g}V{y + size.height:g}")
        if node.title:
            beside = wire + 7 if size.wire < round(len(node.title) * CHARACTER_WIDTH) + 14 else x + 8
            pen.marks.append(f'<text class="ft" x="{beside:g}" y="{y + 15:g}">{html.escape(node.title)}</text>')
        draw(node.body, wire - size_of(node.body).wire, y + top, pen)
    elif isinstance(node, Skip):
        _skip(node, x, y, size, pen)
    elif isinstance(node, Gate):
        _mix(node, x, y, size, pen)
    else:
        _fork(node, x, y, size, pen)


def _box(node: Box, x: float, y: float, size: Size, pen: Pen) -> None:
    pen.rect(x, y, size.width, size.height, f"b {node.kind}", 14 if node.kind == "node" else 5)
    middle = x + size.width / 2
    pen.text(middle, y + 16, node.title)
    if node.detail:
        pen.text(middle, y + 31, node.detail, "n")


def _column(node: Column, x: float, y: float, size: Size, pen: Pen) -> None:
    gap = GAP if node.arrows else 8
    for position, entry in enumerate(node.parts):
        inner = size_of(entry)
        if position:
            if node.arrows:
                pen.enter(entry, x + size.wire, y, y + gap)
            y += gap
        draw(entry, x + size.wire - inner.wire, y, pen)
        y += inner.height


def _skip(node: Skip, x: float, y: float, size: Size, pen: Pen) -> None:
    branch, lane = size_of(node.branch), size_of(node.shortcut)
    wire, past = x + size.wire, x + size.width - lane.width + lane.wire
    room = max(branch.height, lane.height)
    top, low = y + 16, y + 16 + room
    meet = low + GAP + RADIUS
    pen.enter(node.branch, wire, y, top)
    draw(node.branch, wire - branch.wire, top, pen)
    pen.path(f"M{wire:g} {top + branch.height:g}V{low:g}")
    pen.arrow(wire, low, wire, meet - RADIUS)
    pen.marks.append(f'<circle class="k" cx="{wire:g}" cy="{y + 4:g}" r="2.6"/>')
    start, end = top + (room - lane.height) / 2, top + (room + lane.height) / 2
    if isinstance(node.shortcut, Wire):
        pen.path(f"M{wire:g} {y + 4:g}H{past - 8:g}q8 0 8 8V{meet - 8:g}q0 8 -8 8", "a")
    else:
        pen.path(f"M{wire:g} {y + 4:g}H{past - 8:g}q8 0 8 8V{y + 13:g}", "a")
        pen.enter(node.shortcut, past, y + 12, start, "a")
        draw(node.shortcut, past - lane.wire, start, pen)
        pen.path(f"M{past:g} {end:g}V{meet - 8:g}q0 8 -8 8", "a")
    pen.arrow(past - 8, meet, wire + join_half(node.join), meet, "a")
    pen.join(wire, meet, node.join)


def _mix(node: Gate, x: float, y: float, size: Size, pen: Pen) -> None:
    column = _gate(node)
    gate, transform = size_of(column), size_of(node.transform)
    height = max(gate.height, transform.height)
    left, wire, past = x + gate.wire, x + size.wire, x + size.width - 40
    top, low = y + 16, y + 16 + height
    first = low + GAP + RADIUS
    second = first + 2 * RADIUS + GAP
    pen.path(f"M{wire:g} {y + 4:g}H{left + 8:g}q-8 0 -8 8")
    pen.enter(column, left, y + 12, top)
    pen.enter(node.transform, wire, y, top)
    pen.marks.append(f'<circle class="k" cx="{wire:g}" cy="{y + 4:g}" r="2.6"/>')
    draw(column, x, top, pen)
    draw(node.transform, wire - transform.wire, top, pen)
    pen.path(f"M{left:g} {top + gate.height:g}V{first - 8:g}q0 8 8 8")
    pen.arrow(left + 8, first, wire - RADIUS, first)
    pen.text((left + wire) / 2, first - 5, "T", "n")
    pen.path(f"M{wire:g} {top + transform.height:g}V{low:g}")
    pen.arrow(wire, low, wire, first - RADIUS)
    pen.path(f"M{wire:g} {y + 4:g}H{past - 8:g}q8 0 8 8V{first - RADIUS:g}", "a")
    pen.join(wire, first, "×")
    pen.join(past, first, "×")
    pen.text(past + RADIUS + 18, first + 4, "1−T", "n")
    pen.arrow(wire, first + RADIUS, wire, second - RADIUS)
    pen.path(f"M{past:g} {first + RADIUS:g}V{second - 8:g}q0 8 -8 8", "a")
    pen.arrow(past - 8, second, wire + RADIUS, second, "a")
    pen.join(wire, second, "+")


def _fork(node: Fork, x: float, y: float, size: Size, pen: Pen) -> None:
    sizes = [size_of(arm) for arm in node.arms]
    total = sum(inner.width for inner in sizes) + LANE * (len(sizes) - 1)
    wire, at = x + size.wire, x + (size.width - total) / 2
    top, low = y + 16, y + 16 + max(inner.height for inner in sizes)
    meet = low + GAP + RADIUS
    ends = []
    for arm, inner in zip(node.arms, sizes, strict=True):
        ends.append(at + inner.wire)
        pen.enter(arm, ends[-1], y + 4, top)
        draw(arm, at, top, pen)
        pen.path(f"M{ends[-1]:g} {top + inner.height:g}V{low + 4:g}")
        at += inner.width + LANE
    pen.path(f"M{wire:g} {y:g}V{y + 4:g}M{min(*ends, wire):g} {y + 4:g}H{max(*ends, wire):g}")
    pen.path(f"M{min(*ends, wire):g} {low + 4:g}H{max(*ends, wire):g}")
    if node.join:
        pen.arrow(wire, low + 4, wire, meet - RADIUS)
        pen.join(wire, meet, node.join)
    else:
        pen.path(f"M{wire:g} {low + 4:g}V{y + size.height:g}")
