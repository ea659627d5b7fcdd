"""Gradient shattering: correlation of input gradients by depth, along a line of inputs, and as a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pure.errors import ArgumentError
from pure.flow.jacobian.gradient_correlation import Correlation
from pure.flow.plot.panels import curve, guide_lines, labelled, legend, styles, whole_numbers
from pure.flow.plot.style import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["correlation_by_depth", "gradient_correlation", "gradient_cosines", "shattering"]

CHANCE = "#8c8c8c"


def gradient_correlation(result: Correlation, *, title: str | None = None) -> Figure:
    """Return the autocorrelation if it was measured, else the curve by depth, else the matrix of cosines.

    Args:
        result: of `flow.correlation`.
        title: above the picture.

    Raises:
        PlotError: matplotlib is not installed.
    """
    if result.autocorrelation is not None:
        return shattering(result, title=title)
    return (correlation_by_depth if len(result) > 1 else gradient_cosines)(result, title=title)


def correlation_by_depth(
    results: Correlation | Mapping[str, Correlation],
    *,
    guides: Mapping[str, Sequence[float]] | None = None,
    title: str | None = None,
) -> Figure:
    """Return the mean cosine between gradients at different inputs, by the depth of the value differentiated w.r.t.

    Args:
        results: one, or {label: result} to compare; the bands are the 95% intervals, the grey one is what unrelated
            gradients would give.
        guides: {label: values by depth} of laws to draw beside; depth 0 is the input.
        title: above the picture.

    Raises:
        ArgumentError: no results.
        PlotError: matplotlib is not installed.
    """
    found = labelled(results, Correlation)
    with canvas() as (figure, axes):
        chance: dict[int, float] = {}
        for label, result, colour, marker in styles(found):
            points = list(result.values())
            depth = [float(point.depth) for point in points]
            low, high = [p.mean.low for p in points], [p.mean.high for p in points]
            curve(axes, depth, [p.mean.value for p in points], low, high, colour=colour, marker=marker, label=label)
            for point in points:
                chance[point.depth] = max(chance.get(point.depth, 0.0), point.chance)
        where = sorted(chance)
        reach = [chance[depth] for depth in where]
        axes.fill_between(
            where, [-r for r in reach], reach, color=CHANCE, alpha=0.35, linewidth=0, label="unrelated gradients (95%)"
        )
        guide_lines(axes, guides or {})
        axes.xaxis.set_major_locator(whole_numbers())
        axes.set_xlabel("depth of the value that the gradient is taken w.r.t. (input: 0)")
        axes.set_ylabel("mean cosine over pairs of inputs\n(95% interval)")
        axes.set_title(title or "Correlation of gradients at different inputs", loc="left")
        legend(figure)
    return figure


def shattering(results: Correlation | Mapping[str, Correlation], *, title: str | None = None) -> Figure:
    """Return the autocorrelation of the gradient along a line of inputs, beside white noise and Brownian motion.

    Args:
        results: one, or {label: result} to compare, each measured with `lags`.
        title: above the picture.

    Raises:
        ArgumentError: no results, or one without autocorrelation.
        PlotError: matplotlib is not installed.

    Source: Balduzzi et al. 2017 (1702.08591), figure 2.
    """
    found = labelled(results, Correlation)
    with canvas() as (figure, axes):
        longest: list[float] = []
        white = 0.0
        for label, result, colour, marker in styles(found):
            line = result.autocorrelation
            if line is None:
                raise ArgumentError(
                    f"shattering of {label or 'a result'} without autocorrelation: measure it with lags"
                )
            lags = list(map(float, range(len(line.mean))))
            low, high = (line.mean - line.half_width).tolist(), (line.mean + line.half_width).tolist()
            curve(axes, lags, line.mean.tolist(), low, high, colour=colour, marker=marker, label=label)
            white = max(white, line.white)
            longest = max(longest, line.brownian.tolist(), key=len)
        axes.axhspan(-white, white, color=CHANCE, alpha=0.35, linewidth=0, label="white noise (95%)")
        guide_lines(axes, {"Brownian motion": longest})
        axes.xaxis.set_major_locator(whole_numbers())
        axes.set_xlabel("lag (steps along the line of inputs)")
        axes.set_ylabel("autocorrelation of the gradient\n(95% interval over draws)")
        axes.set_title(title or "How far along a line of inputs the gradient stays alike", loc="left")
        legend(figure)
    return figure


def gradient_cosines(result: Correlation, *, path: str | None = None, title: str | None = None) -> Figure:
    """Return the matrix of cosines between the gradients at all inputs.

    Args:
        result: of `flow.correlation`.
        path: which value's gradient; the first one by default.
        title: above the picture.

    Raises:
        ArgumentError: an unknown path.
        PlotError: matplotlib is not installed.
    """
    chosen = next(iter(result)) if path is None else path
    if chosen not in result:
        raise ArgumentError(f"gradient_cosines by {path!r}: expected one of {', '.join(result)}")
    with canvas(4.4, 5.2) as (figure, axes):
        image = axes.imshow(result[chosen].matrix.cpu().numpy(), vmin=-1, vmax=1, cmap="PuOr", interpolation="nearest")
        axes.grid(visible=False)
        axes.xaxis.set_major_locator(whole_numbers())
        axes.yaxis.set_major_locator(whole_numbers())
        axes.set_xlabel("input")
        axes.set_ylabel("input")
        figure.colorbar(image, ax=axes).set_label("cosine")
        axes.set_title(title or f"Cosines between gradients w.r.t. {chosen}", loc="left")
    return figure
