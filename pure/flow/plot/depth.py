"""Norm preservation, branch-to-skip ratio and iterative-inference cosines by depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pure.errors import ArgumentError
from pure.flow.activations.step_profile import MEASURES, DepthProfile, Spread
from pure.flow.plot.panels import curve, labelled, legend, log_if_wide, panels, styles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["depth_measures"]

TITLES = {
    "preservation": r"$\Vert\partial x\Vert\,/\,\Vert\partial y\Vert$ (median, 10–90%)",
    "branch_ratio": r"$\Vert f\Vert\,/\,\Vert x\Vert$ (median, 10–90%)",
    "inference": r"$\cos(f,\,-\partial x)$ (mean, 95%)",
    "consecutive": r"$\cos(f,\,$next $f)$ (mean, 95%)",
}


def depth_measures(results: DepthProfile | Mapping[str, DepthProfile], *, title: str | None = None) -> Figure:
    """Return one panel for each measure that any of the networks has.

    Args:
        results: one, or {label: result} to compare.
        title: above the picture.

    Raises:
        ArgumentError: no results, or no measure in any of them.
        PlotError: matplotlib is not installed.

    Source: Jastrzębski et al. 2018 (1710.04773), figures 2 and 3; Zaeemzadeh et al. 2018 (1805.07477), figure 3.
    """
    found = labelled(results, DepthProfile)
    present = [name for name in MEASURES if any(getattr(s, name) for r in found.values() for s in r.values())]
    if not present:
        raise ArgumentError("depth_measures of steps that have no measure: there is nothing to draw")
    columns = 2 if len(present) > 1 else 1
    rows = (len(present) + columns - 1) // columns
    with panels(rows, columns, 1.1 + 2.0 * rows) as (figure, axes):
        for panel, name in zip(axes, present, strict=False):
            shown: list[float] = []
            cosine = name in ("inference", "consecutive")
            for label, result, colour, marker in styles(found):
                spreads: list[tuple[float, Spread]] = [
                    (float(step.depth), getattr(step, name)) for step in result.values() if getattr(step, name)
                ]
                depth, kept = [d for d, _ in spreads], [s for _, s in spreads]
                middle = [s.mean.value if cosine else s.median for s in kept]
                low = [s.mean.low if cosine else s.p10 for s in kept]
                high = [s.mean.high if cosine else s.p90 for s in kept]
                curve(panel, depth, middle, low, high, colour=colour, marker=marker, label=label)
                shown += middle
            if name != "branch_ratio":
                panel.axhline(0.0 if cosine else 1.0, color="#555555", linewidth=0.8)
            if not cosine:
                log_if_wide(panel, shown)
            panel.set_title(TITLES[name], loc="left", fontsize=9)
        for panel in axes[len(present) :]:
            panel.set_visible(False)
        for panel in axes[max(0, len(present) - columns) : len(present)]:
            panel.set_xlabel("depth (step nearest the input: 0)")
        figure.suptitle(title or "Residual steps x → y with branch f, by depth", x=0.01, ha="left", fontsize=10)
        legend(figure)
    return figure
