"""The pictures of a loss around its parameters: a line along one direction, contours over two."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from pure.flow.hessian.loss_landscape import Landscape
from pure.flow.plot.style import COLOURS, HEAT, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["loss_contours", "loss_line"]


def loss_line(found: Landscape, *, title: str | None = None) -> Figure:
    """Return the loss along one direction.

    Args:
        found: a result of one direction.
        title: above the picture.

    Raises:
        PlotError: matplotlib is not installed.
    """
    with canvas() as (figure, axes):
        losses = found.losses.cpu()
        axes.plot(found.coordinates, losses.where(losses.isfinite(), torch.nan), color=COLOURS[0])
        axes.plot([0], [found.centre], marker="o", markersize=5, linestyle="", color=COLOURS[1], label="parameters")
        axes.set_xlabel("distance along the direction (1: each filter moved by its norm)")
        axes.set_ylabel("loss")
        axes.set_title(title or "Loss along a filter-normalised direction", loc="left")
        axes.legend()
    return figure


def loss_contours(found: Landscape, *, title: str | None = None) -> Figure:
    """Return the contours of the loss over two directions, evenly spaced in its logarithm where it spans a decade.

    Args:
        found: a result of two directions.
        title: above the picture.

    Raises:
        PlotError: matplotlib is not installed.
    """
    losses = found.losses.T.cpu()
    drawn = losses[losses.isfinite()]
    low, high = (float(drawn.min()), float(drawn.max())) if len(drawn) else (0.0, 1.0)
    logarithmic = low > 0 and high > 10 * low
    levels = torch.linspace(low, high if high > low else low + 1, 16, dtype=torch.float64)
    if logarithmic:
        levels = torch.logspace(math.log10(low), math.log10(high), 16, dtype=torch.float64)
    levels = levels.double()
    levels[-1] += 1e-9 * abs(float(levels[-1]))  # so that the highest point lies inside the last band
    with canvas(4.4, 5.4) as (figure, axes):
        from matplotlib.colors import LogNorm, Normalize

        scale = (LogNorm if logarithmic else Normalize)(float(levels[0]), float(levels[-1]))
        shown = losses.where(losses.isfinite(), torch.nan).numpy()
        axis = found.coordinates.numpy()
        filled = axes.contourf(axis, axis, shown, levels=levels.numpy(), cmap=HEAT, norm=scale)
        axes.contour(axis, axis, shown, levels=levels.numpy(), colors="white", linewidths=0.5, norm=scale)
        axes.plot([0], [0], marker="o", markersize=6, linestyle="", color=COLOURS[1], markeredgecolor="white")
        axes.set_aspect("equal")
        axes.grid(visible=False)
        axes.set_xlabel("distance along direction 0 (1: each filter moved by its norm)")
        axes.set_ylabel("distance along direction 1")
        axes.set_title(title or f"Loss around the parameters (dot: {found.centre:.3g})", loc="left")
        bar = figure.colorbar(filled, ax=axes, format="%.3g")
        bar.set_label("loss" + (" (logarithmic)" if logarithmic else ""))
    return figure
