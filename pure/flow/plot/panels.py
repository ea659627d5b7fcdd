"""Panels, curves with bands, tick rules and legends that the drawings share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from pure.errors import ArgumentError
from pure.flow.plot.style import COLOURS, HEAT, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.ticker import MaxNLocator

__all__ = [
    "curve",
    "guide_lines",
    "labelled",
    "legend",
    "log_heat",
    "log_if_wide",
    "log_ticks",
    "panels",
    "styles",
    "whole_numbers",
]

T = TypeVar("T")
GUIDE = "#000000"
LOG_AXIS_RATIO = 20.0
"""The largest over the smallest positive value from which on an axis is logarithmic."""


@contextmanager
def panels(rows: int, columns: int, height_inches: float) -> Iterator[tuple[Figure, list[Axes]]]:
    """Give a figure and its axes, row by row.

    Raises:
        PlotError: matplotlib is not installed.
    """
    with canvas(height_inches) as (figure, axes):
        axes.remove()
        grid = figure.subplots(rows, columns, squeeze=False)
        for entry in grid.flat:
            entry.xaxis.set_major_locator(whole_numbers())
        yield figure, list(grid.flat)


def labelled(results: T | Mapping[str, T], kind: type[T]) -> dict[str, T]:
    """Return {label: result}; one result alone has the label "".

    Raises:
        ArgumentError: nothing, or something else.
    """
    if isinstance(results, kind):
        return {"": results}
    found = dict(results) if isinstance(results, Mapping) else {}
    if not found or not all(isinstance(result, kind) for result in found.values()):
        given = f"{{{', '.join(map(repr, found))}}}" if found else type(results).__name__
        raise ArgumentError(f"a picture of {given}: expected a {kind.__name__}, or {{label: {kind.__name__}}}")
    return found


def styles(results: Mapping[str, T]) -> Iterator[tuple[str, T, str, str]]:
    """Give each result with its colour and marker."""
    for (label, result), colour, marker in zip(results.items(), cycle(COLOURS), cycle(MARKERS)):
        yield label, result, colour, marker


def curve(
    axes: Axes,
    x: Sequence[float],
    middle: Sequence[float],
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    *,
    colour: str,
    marker: str,
    label: str = "",
    dashed: bool = False,
) -> None:
    """Draw a line with its band."""
    if low is not None and high is not None:
        axes.fill_between(x, _finite(low), _finite(high), color=colour, alpha=0.18, linewidth=0)
    style = "--" if dashed else "-"
    axes.plot(
        x, _finite(middle), color=colour, marker=marker, markevery=max(1, len(x) // 25), label=label, linestyle=style
    )


def guide_lines(axes: Axes, guides: Mapping[str, Sequence[float]]) -> None:
    """Draw laws as dotted black lines beside what was measured."""
    for (label, values), style in zip(guides.items(), cycle((":", "-.", (0, (1, 1))))):
        axes.plot(range(len(values)), list(values), color=GUIDE, linestyle=style, linewidth=1.4, label=label, zorder=3)


def log_heat(axes: Axes, values: Tensor, **options: Any) -> AxesImage:
    """Draw a matrix in colours by its logarithm; what is not positive or not finite is grey. Options are `imshow`'s."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    shown = values.where((values > 0) & values.isfinite(), torch.nan)
    drawn = shown[~shown.isnan()]
    low, high = (float(drawn.min()), float(drawn.max())) if len(drawn) else (0.1, 1.0)
    colours = colormaps[HEAT].with_extremes(bad="#e6e6e6")
    axes.grid(visible=False)
    scale = LogNorm(low, max(high, low * 1.01))
    return axes.imshow(shown.numpy(), norm=scale, cmap=colours, interpolation="nearest", **options)


def log_if_wide(axes: Axes, values: Sequence[float]) -> None:
    """Use a logarithmic axis where positive values span a factor of 20; 0 is not drawn then."""
    known = [value for value in values if math.isfinite(value) and value > 0]
    if known and max(known) > LOG_AXIS_RATIO * min(known):
        axes.set_yscale("log")
        log_ticks(axes, "y")


def whole_numbers() -> MaxNLocator:
    """Return the rule for an axis that counts."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=8, integer=True, min_n_ticks=1)


def log_ticks(axes: Axes, which: Literal["x", "y"]) -> None:
    """Label a logarithmic axis so that a range below one decade has labels too."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(numticks=8))
    axis.set_minor_formatter(LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(1.2, 0.5)))
    axes.tick_params(axis=which, which="minor", labelsize=7)


def legend(figure: Figure) -> None:
    """Put one legend of all panels below them, if any line has a name."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            found.setdefault(str(label), handle)
    if found:
        figure.legend(found.values(), found, loc="outside lower center", ncols=min(4, len(found)))


def _finite(values: Sequence[float]) -> list[float]:
    return [value if math.isfinite(value) else math.nan for value in values]
