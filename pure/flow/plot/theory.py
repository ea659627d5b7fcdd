"""Theory in pictures: predictions, measured over predicted, path lengths, and singular values beside their law."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pure.errors import ArgumentError
from pure.flow.plot.panels import whole_numbers
from pure.flow.plot.style import COLOURS, canvas
from pure.flow.shared.estimate import Estimate
from pure.flow.theory.checking import Check
from pure.flow.theory.laws.spectrum import residual_limit_density, residual_limit_edges
from pure.flow.theory.prediction import Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["agreement", "path_lengths", "predicted", "residual_spectrum"]

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


def path_lengths(
    laws: Mapping[str, Sequence[float]],
    measured: Mapping[str, Sequence[Estimate]] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Return the share of the gradient's energy by the number of branches passed.

    Args:
        laws: {label: energies for k = 0, 1, …}, drawn as lines; each is divided by its sum.
        measured: {label: energies}, drawn as points with their 95% intervals, in the colours of the laws in order; each
            is divided by its sum.
        title: above the picture.

    Raises:
        ArgumentError: no law.
        PlotError: matplotlib is not installed.
    """
    if not laws:
        raise ArgumentError("path_lengths of no law: give {label: energies}")
    with canvas() as (figure, axes):
        for index, (label, energies) in enumerate(laws.items()):
            axes.plot(range(len(energies)), _shares(energies), color=COLOURS[index % 7], label=label)
        for index, (label, estimates) in enumerate((measured or {}).items()):
            values = [found.value for found in estimates]
            total = sum(values)
            spread = [
                [(found.value - found.low) / total for found in estimates],
                [(found.high - found.value) / total for found in estimates],
            ]
            axes.errorbar(
                range(len(values)),
                [value / total for value in values],
                yerr=spread,
                linestyle="none",
                marker="o",
                markersize=4.5,
                capsize=2.5,
                color=COLOURS[index % 7],
                label=label,
            )
        axes.set_xlabel("number of branches on the path, $k$")
        axes.set_ylabel(r"$E\Vert J_k u\Vert^2 \;/\; E\Vert J u\Vert^2$")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(whole_numbers())
        axes.set_title(title or "Gradient energy by path length", loc="left")
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def residual_spectrum(
    c: float, singular_values: Tensor | None = None, *, bins: int = 40, title: str | None = None
) -> Figure:
    """Return the limit law of a residual network's singular values with its edges, beside a histogram of measured ones.

    Args:
        c: L α² g.
        singular_values: of the Jacobian, any shape; networks drawn alike may be put together.
        bins: of the histogram.
        title: above the picture.

    Raises:
        PlotError: matplotlib is not installed.
    """
    logs, density = residual_limit_density(c)
    with canvas() as (figure, axes):
        if singular_values is not None:
            seen = 2 * singular_values.detach().double().flatten().log10().cpu()
            span = float(seen.max() - seen.min()) or 1.0
            heights = torch.histc(seen, bins, float(seen.min()), float(seen.max())) / (len(seen) * span / bins)
            edges = torch.linspace(float(seen.min()), float(seen.max()), bins + 1)
            axes.stairs(heights, edges, fill=True, color=COLOURS[5], alpha=0.55, label="measured")
        axes.plot(logs / math.log(10), density * math.log(10), color=COLOURS[0], label="theory, $L\\to\\infty$")
        for index, edge in enumerate(residual_limit_edges(c)):
            axes.axvline(
                math.log10(edge), color=COLOURS[1], linestyle="--", linewidth=1.1, label=None if index else "edges"
            )
        axes.set_xlabel(r"$\log_{10}\lambda$, $\lambda$ an eigenvalue of $J^\mathsf{T}J$ (squared singular value)")
        axes.set_ylabel("density")
        axes.set_ylim(bottom=0)
        axes.set_title(title or f"Spectrum of a residual network, $c = {c:g}$", loc="left")
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def _shares(energies: Sequence[float]) -> list[float]:
    total = sum(energies)
    return [energy / total for energy in energies]


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
