"""The loss around its parameters: the density of its curvature, a line along one direction, contours over two."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from pure.flow.hessian.hessian_spectrum import Curvature
from pure.flow.hessian.loss_landscape import Landscape
from pure.flow.plot.style import COLOURS, HEAT, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["density", "loss_contours", "loss_landscape", "loss_line"]

DECADES = 8.0
"""How far below its peak the density is drawn."""


def density(found: Curvature, *, width: float | None = None, title: str | None = None) -> Figure:
    """Return the spectral density on a logarithmic axis.

    Args:
        found: the result, with its density.
        width: standard deviation of the Gaussian that every eigenvalue is smeared by; by default 1% of the range.
        title: above the picture.

    Raises:
        ArgumentError: the result has no density.
        PlotError: matplotlib is not installed.
    """
    curve = found.density(width=width)
    grid, value = curve.grid.cpu(), curve.value.cpu()
    floor = float(value.max()) * 10**-DECADES
    probes = len(found.quadrature.nodes) if found.quadrature is not None and not found.exact else 0
    name = "Hessian" if found.kind == "hessian" else "Gauss–Newton"
    with canvas() as (figure, axes):
        low, high = curve.low.cpu().clamp_min(floor), curve.high.cpu().clamp_min(floor)
        if probes:
            axes.fill_between(
                grid, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label=f"95% interval, {probes} probes"
            )
        label = "density" if probes else "density (exact spectrum)"
        axes.plot(grid, torch.where(value > floor, value, torch.nan), color=COLOURS[0], label=label)
        axes.set_yscale("log")
        axes.set_ylim(floor, float(high.max()) * 3)
        values = found.eigenvalues.cpu()
        if len(values):
            label = "all eigenvalues" if found.exact else f"{len(values)} eigenvalues of largest magnitude"
            axes.plot(
                values,
                torch.full_like(values, floor * 2),
                linestyle="",
                marker="|" if found.exact else "^",
                markersize=9 if found.exact else 5,
                color=COLOURS[1],
                label=label,
                clip_on=False,
            )
        axes.set_xlabel(f"eigenvalue $\\lambda$ of the {name} matrix ({found.size:,} parameters)")
        axes.set_ylabel(f"density\n(smeared by {curve.width:.2g})")
        axes.set_title(title or f"{name} spectrum, trace {found.trace}", loc="left")
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def loss_landscape(found: Landscape, *, title: str | None = None) -> Figure:
    """Return the loss along one direction, or its contours over two.

    Args:
        found: the result.
        title: above the picture.

    Raises:
        PlotError: matplotlib is not installed.
    """
    return (loss_line if found.losses.ndim == 1 else loss_contours)(found, title=title)


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
