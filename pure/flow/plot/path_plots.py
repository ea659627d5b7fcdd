"""The pictures of paths: the triptych by path length, and coherence by path length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pure.errors import ArgumentError
from pure.flow.paths.coherence import PathCoherence
from pure.flow.paths.path_result import PathSpectrum
from pure.flow.plot.panels import curve, guide_lines, legend, panels
from pure.flow.plot.style import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["coherence", "paths"]

MIN_DRAWN_SHARE = 1e-9
"""The law and the shares are drawn down to this part of their peak."""


def paths(
    spectrum: PathSpectrum,
    *,
    theory: Mapping[str, Sequence[float]] | None = None,
    coherence: PathCoherence | None = None,
    title: str | None = None,
) -> Figure:
    """Return the triptych by path length: number of paths, mean squared magnitude of a path, and their product.

    The product is the squared norm of each component. Its quotient by the number of paths is the mean squared magnitude
    if paths of one length are orthogonal; with `coherence` the mean itself is drawn too, in its 95% band.

    Args:
        spectrum: the result.
        theory: {label: the energies expected of k = 0, 1, … branches}, drawn in proportion to the measured sum, such as
            `{"Binomial": flow.theory.path_energies([alpha**2] * L)}`.
        coherence: of the same block at the same point.
        title: above the picture.

    Raises:
        ArgumentError: a law of no positive numbers, or a coherence of fewer orders.
        PlotError: matplotlib is not installed.

    Source: Veit et al. 2016 (1605.06431), figure 6.
    """
    length = len(spectrum)
    if coherence is not None and len(coherence) < length:
        raise ArgumentError(f"paths: a coherence of {len(coherence)} orders for {length}: measure both with one orders")
    shares = spectrum.shares.tolist()
    laws = {label: _law(label, law, shares) for label, law in (theory or {}).items()}
    drawn = [k for k in range(length) if max(shares[k], 0.0, *(law[k] for law in laws.values())) > MIN_DRAWN_SHARE]
    orders = list(range(max(drawn, default=0) + 1))
    counts = [math.log10(n) if n else math.nan for n in spectrum.paths]
    with panels(1, 3, 2.7) as (figure, (number, magnitude, product)):
        curve(number, orders, [counts[k] for k in orders], colour=COLOURS[0], marker=MARKERS[0])
        number.set_title("Number of paths", loc="left")
        curve(
            magnitude,
            orders,
            [_each(shares[k], counts[k]) for k in orders],
            colour=COLOURS[0],
            marker=MARKERS[0],
            label="measured",
        )
        if coherence is not None:
            total = float((spectrum.norms.square()).sum()) / 4.0 ** (coherence.exponent - spectrum.exponent)
            low, middle, high = (
                [_each(value / total, counts[k]) for k, value in enumerate(values.tolist()[: len(orders)])]
                for values in (coherence.low, coherence.energies, coherence.high)
            )
            curve(magnitude, orders, middle, low, high, colour=COLOURS[1], marker=MARKERS[1], label="path by path, 95%")
        magnitude.set_title("Squared magnitude of one", loc="left")
        curve(product, orders, [shares[k] for k in orders], colour=COLOURS[0], marker=MARKERS[0])
        product.set_title("Share of all", loc="left")
        product.axvline(spectrum.mean_path_length, color=COLOURS[0], linewidth=0.8, linestyle="--")
        guide_lines(magnitude, {name: [_each(law[k], counts[k]) for k in orders] for name, law in laws.items()})
        guide_lines(product, {name: [law[k] for k in orders] for name, law in laws.items()})
        number.set_ylabel(r"$\log_{10}$ number")
        magnitude.set_ylabel(r"$\log_{10}$ of share / number")
        product.set_ylim(bottom=0)
        product.set_ylabel("share of squared norm")
        for axes in (number, magnitude, product):
            _by_length(axes, orders)
        legend(figure)
        if title is not None:
            figure.suptitle(title, x=0.01, ha="left")
    return figure


def coherence(found: PathCoherence, *, title: str | None = None) -> Figure:
    """Return coherence by path length, ‖J_k v‖² over the energy of its paths one by one, in its 95% band.

    Args:
        found: the result.
        title: above the picture.

    Raises:
        PlotError: matplotlib is not installed.
    """
    orders = list(range(len(found)))
    with panels(1, 1, 3.0) as (figure, (axes,)):
        bands = found.coherence.tolist(), found.coherence_low.tolist(), found.coherence_high.tolist()
        curve(axes, orders, *bands, colour=COLOURS[0], marker=MARKERS[0], label="measured, 95%")
        guide_lines(axes, {"orthogonal paths": [1.0] * len(orders)})
        axes.set_ylim(bottom=0)
        axes.set_ylabel(r"$\Vert J_k v \Vert^2 / \sum_{|S|=k} \Vert P_S v \Vert^2$")
        axes.set_title(title or "Path coherence", loc="left")
        _by_length(axes, orders)
        legend(figure)
    return figure


def _law(label: str, law: Sequence[float], shares: Sequence[float]) -> list[float]:
    """Return a law's shares of the drawn orders; what it gives to longer paths counts as its own."""
    values = [float(value) for value in law]
    if not values or min(values) < 0 or not 0 < sum(values) < math.inf:
        raise ArgumentError(f"paths theory {label!r}: expected the energies of k = 0, 1, … branches, not all 0")
    values += [0.0] * (len(shares) - len(values))
    return [value / sum(values) for value in values[: len(shares)]]


def _each(share: float, count: float) -> float:
    """Return log₁₀ of a share divided by 10^count."""
    return math.log10(share) - count if share > 0 else math.nan


def _by_length(axes: Axes, orders: Sequence[int]) -> None:
    axes.set_xlabel("branches passed, k")
    if len(orders) > 1:
        axes.set_xlim(-0.03 * len(orders), 1.03 * len(orders) - 1)
