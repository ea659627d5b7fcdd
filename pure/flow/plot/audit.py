"""The page of an audit: six panels by depth, and the advice below them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Final

from pure.flow.auditing.audit_result import NOTHING_TO_CHANGE, Audit, PathShares
from pure.flow.auditing.growth_fit import Growth
from pure.flow.plot.panels import curve, panels
from pure.flow.plot.style import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["audit_page"]

BLUE, ORANGE, GREEN = COLOURS[:3]
LOG10_FLAT: Final = 0.02
"""The least range of a panel's axis: differences far below it are rounding."""


def audit_page(audit: Audit, *, title: str | None = None) -> Figure:
    """Return one page: gradient, stream and branches by depth, path lengths, deletions, partial Jacobians, advice.

    Fits and laws are dashed: the exponential that the growth was fitted by, and the binomial law of path lengths.

    Args:
        audit: the result.
        title: above the page.

    Raises:
        PlotError: matplotlib is not installed.

    Source: Balduzzi et al. 2017 (1702.08591), figure 1; Brock et al. 2021 (2101.08692), figure 1; Veit et al. 2016
        (1605.06431), figures 3 and 6.
    """
    said = [advice.text for advice in audit.advice] or [NOTHING_TO_CHANGE]
    lines = [line for text in said for line in textwrap.wrap(f"• {text}", 112, subsequent_indent="   ")]
    with panels(3, 2, 7.4 + 0.14 * len(lines)) as (figure, axes):
        _gradient(axes[0], audit)
        _stream(axes[1], audit)
        _branches(axes[2], audit)
        _paths(axes[3], audit)
        _deletions(axes[4], audit)
        _pairs(axes[5], audit)
        if audit.stop is not None:
            for panel in axes[:3]:
                panel.axvline(audit.stop.depth, color="black", linestyle=":", linewidth=1.2)
            axes[1].annotate(
                f"{audit.stop.found} at {audit.stop.name or 'the network'}",
                (audit.stop.depth, 0.5),
                xycoords=axes[1].get_xaxis_transform(),
                xytext=(-3, 0),
                textcoords="offset points",
                rotation=90,
                ha="right",
                va="center",
                fontsize=7,
            )
        figure.suptitle(title or f"Audit of {len(audit)} blocks", x=0.01, ha="left", fontsize=10)
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=7.5)
    return figure


def _named(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _gradient(axes: Axes, audit: Audit) -> None:
    blocks = list(audit.blocks.values())
    depth = [block.depth for block in blocks]
    low, high = [b.log10_gradient_p10 for b in blocks], [b.log10_gradient_p90 for b in blocks]
    middle = [b.log10_gradient_median for b in blocks]
    curve(axes, depth, middle, low, high, colour=BLUE, marker="o", label="sample: 10–90%")
    own = [b.log10_parameter_gradient for b in blocks]
    curve(axes, depth, own, colour=ORANGE, marker="s", label="parameters")
    grown = audit.gradient_growth
    if grown is not None and 0 < grown.factor < math.inf:
        family = [audit.blocks[name] for name in audit.family]
        slope = -math.log10(grown.factor) / 2
        _fit(axes, [b.depth for b in family], [b.log10_gradient_median for b in family], slope, _said(grown, 0.5))
    _legend(axes)
    _named(axes, r"gradient: $\log_{10}\Vert\partial\,\mathrm{loss}/\partial\,\cdot\Vert_2$", "depth")


def _legend(axes: Axes) -> None:
    """Put the legend below the panel, where no data are."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles,
            labels,
            fontsize=6.5,
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.24),
            ncols=min(2, len(handles)),
            borderaxespad=0.0,
            handlelength=1.4,
            columnspacing=0.9,
        )


def _fit(axes: Axes, depth: Sequence[int], values: Sequence[float], slope: float, label: str) -> None:
    """Draw the fitted slope through the middle of the points, which one step apart does not move."""
    known = [value - slope * at for at, value in zip(depth, values, strict=True) if math.isfinite(value)]
    if not known:
        return
    anchor = median(known)
    ends = [depth[0], depth[-1]]
    axes.plot(ends, [anchor + slope * at for at in ends], "--", color="black", linewidth=1.0, label=label)


def _said(grown: Growth, power: float = 1.0) -> str:
    """Return the fit with its interval, as the factor of a root where a square was fitted."""
    factor, low, high = (end**power for end in (grown.factor, grown.low, grown.high))
    apart = f", {len(grown.apart)} step{'s' if len(grown.apart) > 1 else ''} apart" if grown.apart else ""
    return f"fit {factor:.3g}$^L$ [{low:.3g}, {high:.3g}]{apart}"


def _stream(axes: Axes, audit: Audit) -> None:
    blocks = list(audit.blocks.values())
    depth = [block.depth for block in blocks]
    for values, colour, marker, label in (
        ([b.stream.log10_second_moment for b in blocks], BLUE, "o", "stream: mean square"),
        ([b.stream.log10_squared_mean for b in blocks], GREEN, "^", "stream: channel mean²"),
        ([b.branch.log10_second_moment if b.branch else math.nan for b in blocks], ORANGE, "s", "branch: mean square"),
    ):
        if any(map(math.isfinite, values)):
            curve(axes, depth, values, colour=colour, marker=marker, label=label)
    grown = audit.stream_growth
    if grown is not None and 0 < grown.factor < math.inf:
        own = [audit.blocks[name] for name in audit.family]
        values = [b.stream.log10_second_moment for b in own]
        _fit(axes, [b.depth for b in own], values, math.log10(grown.factor), _said(grown))
    _legend(axes)
    _named(axes, r"signal: $\log_{10}$", "depth")


def _branches(axes: Axes, audit: Audit) -> None:
    blocks = list(audit.blocks.values())
    gated = [block for block in blocks if block.gates is not None]
    if gated:
        depth = [block.depth for block in gated]
        curve(axes, depth, [b.gates.mean for b in gated if b.gates], colour=BLUE, marker="o", label="mean gate")
        ends = [b.gates.saturated for b in gated if b.gates]
        curve(axes, depth, ends, colour=ORANGE, marker="s", label="saturated")
        axes.set_ylim(-0.03, 1.03)
        _legend(axes)
        _named(axes, "gates", "depth", "share")
        return
    _named(axes, "branch / stream", "depth", r"$\log_{10}$ of the ratio of rms")
    ratios = [math.log10(block.branch_to_skip) if block.branch_to_skip > 0 else math.nan for block in blocks]
    if any(map(math.isfinite, ratios)):
        curve(axes, [block.depth for block in blocks], ratios, colour=BLUE, marker="o")
        known = [ratio for ratio in ratios if math.isfinite(ratio)]
        if max(known) - min(known) < LOG10_FLAT:
            axes.set_ylim(min(known) - LOG10_FLAT, max(known) + LOG10_FLAT)
    else:
        _empty(axes, "no tagged branches")


def _paths(axes: Axes, audit: Audit) -> None:
    _named(axes, "input gradient by path length", "branches passed", "share of its square")
    if audit.paths is None:
        _empty(axes, "no skips")
        return
    lengths = range(len(audit.paths.shares))
    axes.bar(lengths, audit.paths.shares, color=BLUE, width=0.7, label="measured")
    if (law := _binomial(audit.paths, audit)) is not None:
        axes.plot(lengths, law, "D--", color="black", markersize=3, linewidth=1.0, label="binomial law, if independent")
    drawn = [share for share in audit.paths.shares if share > 0]
    if drawn and (max(drawn) < 1e-3 or max(drawn) > 1e3):
        axes.set_yscale("log")
    _legend(axes)


def _binomial(paths: PathShares, audit: Audit) -> list[float] | None:
    """Return the law for independent branches, as strong as the partial Jacobian from the first to the last says."""
    last = max((pair.target for pair in audit.pairs), default=0)
    whole = next((pair for pair in audit.pairs if (pair.source, pair.target) == (0, last)), None)
    if whole is None or not 0 < whole.log10_value / paths.blocks < 100 or len(audit.family) != len(audit):
        return None
    growth = 10 ** (whole.log10_value / paths.blocks)
    through = 1 - 1 / growth
    return [
        math.exp(
            math.lgamma(paths.blocks + 1)
            - math.lgamma(k + 1)
            - math.lgamma(paths.blocks - k + 1)
            + k * math.log(through)
            - (paths.blocks - k) * math.log(growth)
        )
        for k in range(min(len(paths.shares), paths.blocks + 1))
    ] + [0.0] * max(0, len(paths.shares) - paths.blocks - 1)


def _deletions(axes: Axes, audit: Audit) -> None:
    _named(axes, "one block deleted", "deleted block", "relative output change")
    if not audit.deletions:
        _empty(axes, "none deleted")
        return
    changes = [deletion.relative_change for deletion in audit.deletions]
    axes.plot([deletion.depth for deletion in audit.deletions], changes, "o", color=BLUE)
    positive = [change for change in changes if change > 0]
    if positive and max(positive) > 20 * min(positive):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, max(changes) * 1.15 or 1.0)


def _pairs(axes: Axes, audit: Audit) -> None:
    _named(axes, "partial Jacobian to the last depth", "from depth", r"$\log_{10}\Vert J\Vert_F^2/n$, 95%")
    last = max((pair.target for pair in audit.pairs), default=0)
    pairs = [pair for pair in audit.pairs if pair.target == last and math.isfinite(pair.log10_value)]
    if not pairs:
        _empty(axes, "none estimated")
        return
    middle = [pair.log10_value for pair in pairs]
    finite = [pair if math.isfinite(pair.log10_low + pair.log10_high) else None for pair in pairs]
    below = [value - pair.log10_low if pair else 0.0 for value, pair in zip(middle, finite, strict=True)]
    above = [pair.log10_high - value if pair else 0.0 for value, pair in zip(middle, finite, strict=True)]
    sources = [pair.source for pair in pairs]
    axes.errorbar(sources, middle, [below, above], fmt="o", color=BLUE, capsize=2.5)
    grown = audit.gradient_growth
    if grown is not None and 0 < grown.factor < math.inf and len(audit.family) == len(audit):
        rate = math.log10(grown.factor)
        axes.plot([0, last], [rate * last, 0.0], "--", color="black", linewidth=1.0, label="gradient's fit")
        _legend(axes)


def _empty(axes: Axes, why: str) -> None:
    axes.annotate(why, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color="#555555", fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
