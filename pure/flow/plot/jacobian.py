"""The pictures of Jacobians: the histogram of squared singular values, and partial Jacobian norms between depths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pure.errors import ArgumentError
from pure.flow.jacobian.partial_norms import PartialJacobians
from pure.flow.jacobian.singular_values import JacobianSpectrum
from pure.flow.plot.panels import log_heat, whole_numbers
from pure.flow.plot.style import COLOURS, canvas
from pure.flow.shared.estimate import half_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["partial_norms", "singular_values"]

ZERO = 1e-12
"""An eigenvalue below this share of the largest is drawn as 0."""


def singular_values(
    spectrum: JacobianSpectrum,
    *,
    theory: tuple[Tensor, Tensor] | None = None,
    edges: tuple[float, float] | None = None,
    bins: int = 40,
    title: str | None = None,
) -> Figure:
    """Return the spectrum of JᵀJ over log₁₀ λ, λ = σ², with theory beside it.

    All singular values make a histogram, a density by Lanczos its cumulative share, the k largest a line in order.

    The lines on the bars are 95% intervals over the samples, the band round the cumulative share holds
    the probes' spread and the rule's own error. What cannot be drawn in the histogram, as 0, has its share written.

    Args:
        spectrum: as `jacobian_spectrum` gives it.
        theory: (λ, density of λ), as `theory.gaussian_product_density` gives it; of `theory.residual_limit_density`,
            which gives ln λ and its density, (λ, density / λ).
        edges: where the law's spectrum ends, in λ.
        bins: of the histogram.
        title: above the picture.

    Raises:
        ArgumentError: every eigenvalue is 0.
        PlotError: matplotlib is not installed.
    """
    with canvas() as (figure, axes):
        if spectrum.method == "golub-kahan":
            _in_order(axes, spectrum)
            axes.set_title(title or "Largest singular values", loc="left")
            return figure
        if spectrum.method == "lanczos":
            zeros = 0.0
            _cumulative(axes, spectrum, theory)
        else:
            zeros = _histogram(axes, spectrum, bins, theory)
        for index, edge in enumerate(sorted(edge for edge in edges or () if edge > 0)):
            label = None if index else "theory's edges"
            axes.axvline(math.log10(edge), color=COLOURS[6], linestyle="--", linewidth=1.1, label=label)
        axes.set_xlabel(r"$\log_{10}\lambda$, $\lambda=\sigma^2$ an eigenvalue of $J^\mathsf{T}J$")
        axes.set_ylim(bottom=0)
        rows, columns = spectrum.shape
        named = title or f"Squared singular values of J, {rows} × {columns}"
        axes.set_title(named + (f" ({zeros:.0%} are 0, to 10⁻¹² of the largest)" if zeros > 0.0005 else ""), loc="left")
        figure.legend(loc="outside lower center", ncols=4)
    return figure


def _cumulative(axes: Axes, spectrum: JacobianSpectrum, theory: tuple[Tensor, Tensor] | None) -> None:
    """Draw the share of the spectrum below λ: what quadrature tells, where a histogram would show its few nodes."""
    nodes, weights = spectrum.rule.nodes.cpu(), spectrum.rule.weights.cpu()
    largest = float(nodes.max())
    if largest == 0:
        raise ArgumentError("singular_values of a Jacobian that is 0: there is nothing to draw")
    smallest = max(float(nodes[weights > 0].min()), largest * 1e-8)
    grid = torch.linspace(math.log10(smallest) - 0.2, math.log10(largest) + 0.2, 300, dtype=torch.float64)
    middle, low, high = (curve.cpu() for curve in spectrum.rule.cumulative(10**grid))
    axes.fill_between(grid, low, high, color=COLOURS[5], alpha=0.5, linewidth=0, label="95% interval")
    axes.plot(grid, middle, color=COLOURS[0], label="measured")
    if theory is not None:
        at, density = (curve.detach().double().cpu() for curve in theory)
        share = 1 - torch.cumulative_trapezoid((density * at).flip(0), at.log().flip(0)).neg().flip(0)
        seen = at[:-1].log10() >= grid[0]
        axes.plot(at[:-1].log10()[seen], share[seen], color=COLOURS[1], linestyle="--", label="theory")
    axes.set_ylabel("share of the spectrum below")


def _histogram(axes: Axes, spectrum: JacobianSpectrum, bins: int, theory: tuple[Tensor, Tensor] | None) -> float:
    """Draw the bars, their intervals and the law, and return the share of zeros."""
    nodes, weights = spectrum.rule.nodes.cpu(), spectrum.rule.weights.cpu()
    drawn = (nodes > ZERO * nodes.max()) & (weights > 0)
    if not drawn.any():
        raise ArgumentError("singular_values of a Jacobian that is 0: there is nothing to draw")
    logs = nodes.clamp_min(torch.finfo(torch.float64).tiny).log10()
    low, high = float(logs[drawn].min()), float(logs[drawn].max())
    if high - low < 1e-6:
        low, high = low - 0.05, high + 0.05
    width = (high - low) / bins
    index = ((logs - low) / width).long().clamp(0, bins - 1)
    shares = torch.zeros(len(nodes), bins, dtype=torch.float64)
    shares.scatter_add_(1, index, weights.where(drawn, 0.0))
    shares /= width
    height = shares.mean(0)
    left = low + width * torch.arange(bins)
    axes.bar(left.tolist(), height.tolist(), width, align="edge", color=COLOURS[5], alpha=0.6, label="measured")
    if len(shares) > 1:
        half = half_width(shares)
        lower = torch.minimum(half, height)
        axes.errorbar(
            (left + width / 2).tolist(),
            height.tolist(),
            yerr=torch.stack([lower, half]).numpy(),
            fmt="none",
            ecolor=COLOURS[0],
            elinewidth=0.9,
            label="95% interval",
        )
    zeros = max(0.0, 1 - float(weights.where(drawn, 0.0).sum(1).mean()))
    if theory is not None:
        at, density = (curve.detach().double().cpu() for curve in theory)
        axes.plot(at.log10(), density * at * math.log(10) * (1 - zeros), color=COLOURS[1], label="theory")
    axes.set_ylabel("share of the spectrum\n" + r"for a unit of $\log_{10}\lambda$")
    return zeros


def _in_order(axes: Axes, spectrum: JacobianSpectrum) -> None:
    values = spectrum.values.cpu().reshape(-1, spectrum.values.shape[-1])
    residuals = spectrum.residuals.cpu().reshape(values.shape)
    order = range(1, values.shape[1] + 1)
    for row, (line, error) in enumerate(zip(values, residuals, strict=True)):
        colour = COLOURS[0]
        axes.errorbar(
            order,
            line.tolist(),
            yerr=error.tolist(),
            color=colour,
            marker="o",
            alpha=1.0 if row == 0 else 0.35,
            linewidth=0.8,
        )
    axes.set_xlabel("rank")
    axes.set_ylabel(r"$\sigma$ (bars: residual norm)")
    axes.xaxis.set_major_locator(whole_numbers())
    axes.set_ylim(bottom=0)


def partial_norms(norms: PartialJacobians, *, law: Sequence[float] | None = None, title: str | None = None) -> Figure:
    """Return the heat map of ‖∂h_t/∂h_s‖²/n over pairs of depths, and the curve from each depth to the last.

    Args:
        norms: as `partial_jacobians` gives them.
        law: what theory gives for the curve, one number a depth.
        title: above the picture.

    Raises:
        ArgumentError: a law of another length.
        PlotError: matplotlib is not installed.
    """
    depths = len(norms.paths)
    if law is not None and len(law) != depths:
        raise ArgumentError(f"law of {len(law)} numbers for {depths} depths: expected one for each, the input first")
    with canvas() as (figure, _):
        figure.clear()
        left, right = figure.subplots(1, 2, width_ratios=[1.0, 1.15])
        _heat(figure, left, norms)
        curve = norms.norms[:, -1].cpu()
        low, high = norms.low[:, -1].cpu(), norms.high[:, -1].cpu()
        if norms.method == "hutchinson":
            right.fill_between(range(depths), low, high, color=COLOURS[0], alpha=0.22, lw=0, label="95% interval")
        right.plot(range(depths), curve, color=COLOURS[0], marker="o", markevery=max(1, depths // 25), label="measured")
        if law is not None:
            right.plot(range(depths), law, color=COLOURS[1], linestyle="--", label="theory")
        right.set_xlabel("depth $s$ (input: 0)")
        right.set_ylabel(r"$\Vert\partial h_L/\partial h_s\Vert_F^2\,/\,n$")
        right.xaxis.set_major_locator(whole_numbers())
        if float(curve.max()) > 30 * float(curve.min()) > 0:
            right.set_yscale("log")
        else:
            right.set_ylim(bottom=0)
        right.set_title("to the last depth", loc="left")
        if law is not None or norms.method == "hutchinson":
            right.legend(loc="best")
        figure.suptitle(title or "Averaged squared partial Jacobian norms", x=0.01, ha="left", fontsize=10)
    return figure


def _heat(figure: Figure, axes: Axes, norms: PartialJacobians) -> None:
    image = log_heat(axes, norms.norms.cpu(), origin="lower")
    axes.set_xlabel("to depth $t$")
    axes.set_ylabel("from depth $s$")
    axes.xaxis.set_major_locator(whole_numbers())
    axes.yaxis.set_major_locator(whole_numbers())
    axes.set_title("every pair", loc="left")
    figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05, location="bottom")
