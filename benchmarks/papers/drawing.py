"""Panels side by side in the common style of `pure.flow`, and a line with its 95 % band."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pure.flow.plot.style import COLOURS, MARKERS, canvas

WIDTH_INCHES = 9.6


@contextmanager
def panels(*titles: str, height_inches: float = 3.4) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """An empty figure with one panel a title, lettered a, b, …."""
    with canvas(height_inches, WIDTH_INCHES) as (figure, first):
        first.remove()
        row = figure.subplots(1, len(titles), squeeze=False)[0]
        for letter, axes, title in zip("abcdef", row, titles, strict=False):
            axes.set_title(f"{letter}  {title}", loc="left")
        yield figure, row


def line(axes: Axes, x: Sequence[float], curve: Mapping[str, Any], index: int, label: str, **options: Any) -> None:
    """A line in the colour and marker of `index`, with its band where it has one."""
    colour = COLOURS[index % len(COLOURS)]
    marker = MARKERS[index % len(MARKERS)]
    if "low" in curve:
        axes.fill_between(x, curve["low"], curve["high"], color=colour, alpha=0.2, linewidth=0)
    every = max(1, len(x) // 16)
    axes.plot(x, curve["value"], color=colour, marker=marker, markevery=every, label=label, **options)


def law(axes: Axes, x: Sequence[float], y: Sequence[float], label: str, style: str = "--") -> None:
    """A closed form, in black and without markers."""
    axes.plot(x, y, color="#000000", linestyle=style, linewidth=1.1, label=label, zorder=5)
