"""The signal-propagation plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pure.flow.activations.signal_propagation import Signal
from pure.flow.plot.panels import curve, guide_lines, labelled, legend, log_if_wide, panels, styles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["propagation"]


def propagation(
    results: Signal | Mapping[str, Signal],
    *,
    guides: Mapping[str, Sequence[float]] | None = None,
    title: str | None = None,
) -> Figure:
    """Return average channel squared mean and variance of the streams, and variance and ratio of the branches.

    Args:
        results: one, or {label: result} to compare.
        guides: {label: stream variance by depth} of laws to draw beside the measured one.
        title: above the picture.

    Raises:
        ArgumentError: no results.
        PlotError: matplotlib is not installed.

    Source: Brock et al. 2021 (2101.08692), figure 1.
    """
    found = labelled(results, Signal)
    with panels(2, 2, 5.0) as (figure, axes):
        shown: list[list[float]] = [[], [], [], []]
        for label, result, colour, marker in styles(found):
            streams, branches = result.streams, result.branches
            lines = [
                ([v.depth for v in streams], [v.squared_mean for v in streams]),
                ([v.depth for v in streams], [v.variance for v in streams]),
                ([v.depth for v in branches], [v.variance for v in branches]),
                ([v.depth for v in branches], [v.ratio for v in branches]),
            ]
            for index, (panel, (x, values)) in enumerate(zip(axes, lines, strict=True)):
                curve(panel, x, values, colour=colour, marker=marker, label=label)
                shown[index] += values
            if result.not_finite:
                depth = result[result.not_finite[0]].depth
                for panel in axes:
                    panel.axvline(depth, color=colour, linestyle="--", linewidth=1.0)
                axes[1].annotate(
                    f"{result.not_finite[0]}: not finite",
                    (depth, 0.0),
                    xycoords=axes[1].get_xaxis_transform(),
                    xytext=(-3, 4),
                    textcoords="offset points",
                    rotation=90,
                    ha="right",
                    fontsize=7,
                )
        guide_lines(axes[1], guides or {})
        names = (
            "stream: channel mean², averaged",
            "stream: channel variance, averaged",
            "branch: channel variance, averaged",
            "branch variance / input variance",
        )
        for panel, name, values in zip(axes, names, shown, strict=True):
            panel.set_title(name, loc="left", fontsize=9)
            log_if_wide(panel, values)
        for panel in axes[2:]:
            panel.set_xlabel("depth (step nearest the input: 0)")
        figure.suptitle(title or "Signal propagation", x=0.01, ha="left", fontsize=10)
        legend(figure)
    return figure
