"""Gate activity, saturation and bias by depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pure.flow.activations.gate_activity import OPEN, SHUT, Gates
from pure.flow.plot.panels import curve, labelled, legend, panels, styles
from pure.flow.shared.quantiles import quantiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["gate_activity"]


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
