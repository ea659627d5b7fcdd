"""Theory in pictures: predictions, and measured over predicted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from pure.errors import ArgumentError
from pure.flow.plot.style import COLOURS, canvas
from pure.flow.theory.checking import Check
from pure.flow.theory.prediction import Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["agreement", "predicted"]

KINDS = {"exact": ("o", COLOURS[0]), "limit": ("s", COLOURS[1])}


def predicted(predictions: Predictions, *, title: str | None = None) -> Figure:
    """Return the predictions as points on a logarithmic axis, exact laws and limit laws told apart.

    Args:
        predictions: as `theory.predict` gives them.
        title: above the picture.

    Raises:
        ArgumentError: nothing is predicted.
        PlotError: matplotlib is not installed.
    """
    if not predictions:
        raise ArgumentError("predicted: no law holds for this block, so there is nothing to draw")
    with canvas(_height(len(predictions))) as (figure, axes):
        for row, entry in enumerate(predictions.values()):
            marker, colour = KINDS[entry.kind]
            axes.plot([entry.predicted], [row], marker=marker, color=colour, linestyle="none")
        axes.set_xscale("log")
        axes.set_xlabel("predicted (a ratio, without unit)")
        _rows(axes, list(predictions))
        _kinds(figure, {entry.kind for entry in predictions.values()}, "limit of infinite width")
        axes.set_title(title or "What theory predicts at initialisation", loc="left")
    return figure


def agreement(check: Check, *, title: str | None = None) -> Figure:
    """Return measured over predicted with its 95% interval, one row a quantity; 1 is theory.

    Args:
        check: as `theory.check` gives it.
        title: above the picture.

    Raises:
        ArgumentError: nothing was predicted.
        PlotError: matplotlib is not installed.
    """
    if not check:
        raise ArgumentError("agreement: no law holds for this block, so there is nothing to draw")
    with canvas(_height(len(check))) as (figure, axes):
        if any(entry.prediction.kind == "limit" for entry in check.values()):
            axes.axvspan(0.95, 1.05, color=COLOURS[1], alpha=0.10, linewidth=0)
        axes.axvline(1.0, color=COLOURS[6], linewidth=1.0)
        for row, entry in enumerate(check.values()):
            scale = entry.prediction.predicted
            marker, colour = KINDS[entry.prediction.kind]
            low, middle, high = (getattr(entry.measured, name) / scale for name in ("low", "value", "high"))
            face = colour if entry.verdict == "agrees" else "white"
            axes.plot([low, high], [row, row], color=colour)
            axes.plot([middle], [row], marker=marker, color=colour, markerfacecolor=face, markersize=5)
        axes.set_xlabel("measured / predicted, with 95% interval (hollow: does not agree)")
        _rows(axes, list(check))
        kinds = {entry.prediction.kind for entry in check.values()}
        _kinds(figure, kinds, "limit of infinite width (band: ±5%)")
        axes.set_title(title or f"Theory against {check.draws} draws", loc="left")
    return figure


def _height(rows: int) -> float:
    return 1.5 + 0.24 * max(rows, 3)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _kinds(figure: Figure, kinds: Collection[str], limit: str) -> None:
    from matplotlib.lines import Line2D

    names = {"exact": "exact at this width", "limit": limit}
    handles: list[Any] = [
        Line2D([], [], marker=marker, color=colour, linestyle="none", label=names[kind])
        for kind, (marker, colour) in KINDS.items()
        if kind in kinds
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
