"""The deletion curve: what each block is worth, measured beside the first-order prediction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pure.flow.activations.block_deletion import Deletion
from pure.flow.plot.panels import curve, log_if_wide, panels
from pure.flow.plot.style import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["deletion_curve"]


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
