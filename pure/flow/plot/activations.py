"""Activations by depth: signal propagation, residual steps, gates, and the loss without single branches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pure.errors import ArgumentError
from pure.flow.activations.block_deletion import Deletion
from pure.flow.activations.gate_activity import OPEN, SHUT, Gates
from pure.flow.activations.signal_propagation import Signal
from pure.flow.activations.step_profile import MEASURES, DepthProfile, Spread
from pure.flow.plot.panels import curve, guide_lines, labelled, legend, log_if_wide, panels, styles
from pure.flow.plot.style import COLOURS, MARKERS
from pure.flow.shared.quantiles import quantiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["deletion_curve", "depth_measures", "gate_activity", "propagation"]


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


def gate_activity(results: Gates | Mapping[str, Gates], *, title: str | None = None) -> Figure:
    """Return the gates by depth: median with 10–90% band, the shut and open fractions, and the biases if there are any.

    Args:
        results: one, or {label: result} to compare.
        title: above the picture.

    Raises:
        ArgumentError: no results.
        PlotError: matplotlib is not installed.

    Source: Srivastava et al. 2015 (1507.06228), figure 2.
    """
    found = labelled(results, Gates)
    biased = any(gate.bias is not None for result in found.values() for gate in result.values())
    with panels(1, 3 if biased else 2, 2.9) as (figure, axes):
        for label, result, colour, marker in styles(found):
            gates = list(result.values())
            depth = [float(gate.depth) for gate in gates]
            band = [g.p10 for g in gates], [g.p90 for g in gates]
            curve(axes[0], depth, [g.median for g in gates], *band, colour=colour, marker=marker, label=label)
            shut, opened = [g.shut_fraction for g in gates], [g.open_fraction for g in gates]
            curve(axes[1], depth, shut, colour=colour, marker=marker)
            curve(axes[1], depth, opened, colour=colour, marker=marker, dashed=True)
            own = [(float(g.depth), quantiles(g.bias.flatten()).tolist()) for g in gates if g.bias is not None]
            if own:
                low, middle, high = zip(*(points for _, points in own), strict=True)
                curve(axes[2], [d for d, _ in own], middle, low, high, colour=colour, marker=marker)
        axes[0].set_ylim(-0.03, 1.03)
        axes[1].set_ylim(-0.03, 1.03)
        names = ["activity (median, 10–90%)", f"— below {SHUT},  - - above {OPEN}", "bias (median, 10–90%)"]
        for panel, name in zip(axes, names, strict=False):
            panel.set_title(name, loc="left", fontsize=9)
            panel.set_xlabel("gate, by depth")
        figure.suptitle(title or "Gates by depth", x=0.01, ha="left", fontsize=10)
        legend(figure)
    return figure


def deletion_curve(result: Deletion, *, title: str | None = None) -> Figure:
    """Return the change of the loss by deleted branch, measured and to first order, and the change of the output.

    Args:
        result: of `flow.deletion`; with suffixes, their curve has a third panel.
        title: above the picture.

    Raises:
        PlotError: matplotlib is not installed.

    Source: Veit et al. 2016 (1605.06431), figures 3 and 5.
    """
    suffix = result.suffix_loss_change
    with panels(1, 2 if suffix is None else 3, 3.2) as (figure, axes):
        depth = list(map(float, range(len(result))))
        measured, first = result.loss_change.tolist(), result.first_order.tolist()
        axes[0].axhline(0, color="#555555", linewidth=0.8)
        curve(axes[0], depth, measured, colour=COLOURS[0], marker=MARKERS[0], label="measured")
        curve(axes[0], depth, first, colour=COLOURS[1], marker=MARKERS[1], label="first order", dashed=True)
        axes[0].set_title("change of loss", loc="left", fontsize=9)
        axes[0].legend(loc="best")
        outputs = result.output_change.tolist()
        curve(axes[1], depth, outputs, colour=COLOURS[2], marker=MARKERS[2])
        axes[1].set_title("relative change of output", loc="left", fontsize=9)
        log_if_wide(axes[1], outputs)
        if suffix is not None:
            axes[2].axhline(0, color="#555555", linewidth=0.8)
            curve(axes[2], depth, suffix.tolist(), colour=COLOURS[3], marker=MARKERS[3])
            axes[2].set_title("loss, also without all later", loc="left", fontsize=9)
        for panel in axes:
            panel.set_xlabel("deleted branch, by depth")
        hidden = sum(not math.isfinite(value) for value in measured)
        note = f" ({hidden} not finite, not drawn)" if hidden else ""
        words = title or f"Deleting single branches (loss {result.loss:.4g}){note}"
        figure.suptitle(words, x=0.01, ha="left", fontsize=10)
    return figure
