"""The picture of a loss's curvature: the density of the eigenvalues, with its band and the eigenvalues marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pure.flow.hessian.hessian_spectrum import Curvature
from pure.flow.plot.style import COLOURS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["density"]

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
