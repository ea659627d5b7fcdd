"""Gradient norms: by depth, a bar for each leaf, and the layer × sample heat map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from pure.errors import ArgumentError
from pure.flow.activations.gradients_by_depth import ActivationGradient, GradientNorms
from pure.flow.per_sample.sample_norms import PerSampleNorms
from pure.flow.plot.panels import curve, log_heat, log_ticks, styles, whole_numbers
from pure.flow.plot.style import COLOURS, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["by_depth", "gradient_norms", "heat", "leaves"]

Curve = tuple[list[float], list[float] | None, list[float] | None]
MAX_ROWS = 48


def gradient_norms(norms: GradientNorms, *, title: str | None = None) -> Figure:
    """Return activation gradients by depth where something is tagged, else a bar for each leaf.

    Args:
        norms: the result.
        title: above the picture.

    Raises:
        ArgumentError: neither tags nor leaves.
        PlotError: matplotlib is not installed.
    """
    return (by_depth if norms.activations else leaves)(norms, title=title)


def by_depth(
    norms: GradientNorms | PerSampleNorms | Mapping[str, GradientNorms | PerSampleNorms],
    *,
    of: Literal["auto", "stream", "branch", "parameters"] = "auto",
    title: str | None = None,
) -> Figure:
    """Return gradient norm by depth on a logarithmic axis, several networks in one picture.

    Args:
        norms: one result, or {label: result} to compare. Of `GradientNorms`, the line is the median over samples of
            ‖∂loss/∂h‖₂ and the band goes from their 10% to their 90% quantile; of `PerSampleNorms` the same for the
            parameters of each block.
        of: "stream" or "branch" for the values tagged so; "parameters" for the parameters of each numbered block, such
            as `layers.0`, `layers.1`, …; "auto" for the stream where every result has one, else the parameters.
        title: above the picture.

    Raises:
        ArgumentError: nothing to draw: no such tags, or no numbered blocks.
        PlotError: matplotlib is not installed.
    """
    results = {"": norms} if isinstance(norms, GradientNorms | PerSampleNorms) else dict(norms)
    if not results:
        raise ArgumentError("by_depth of no results: give one, or {label: result}")
    if of == "auto":
        tagged = all(isinstance(result, GradientNorms) and _tagged(result, "stream") for result in results.values())
        of = "stream" if tagged else "parameters"
    curves = {label: _curve(label, result, of) for label, result in results.items()}
    banded = any(low is not None for _, low, _ in curves.values())
    with canvas() as (figure, axes):
        hidden = 0
        for label, (middle, *band), colour, marker in styles(curves):
            hidden += sum(not value > 0 for value in middle)
            edges = [edge if edge is None else _positive(edge) for edge in band]
            curve(axes, range(len(middle)), _positive(middle), *edges, colour=colour, marker=marker, label=label)
        axes.set_yscale("log")
        axes.set_xlabel("depth (block nearest the input: 0)")
        what = "block's parameters" if of == "parameters" else f"{of} $h$"
        symbol = r"\theta" if of == "parameters" else "h"
        unit = "median over samples, 10–90% band" if banded else "whole batch"
        axes.set_ylabel(rf"$\Vert \partial\,\mathrm{{loss}}/\partial {symbol} \Vert_2$" + f"\n({unit})")
        axes.set_title(title or f"Gradient w.r.t. the {what}, over depth", loc="left")
        axes.xaxis.set_major_locator(whole_numbers())
        log_ticks(axes, "y")
        if hidden:
            axes.annotate(
                f"{hidden} values are 0 or not finite and are not drawn",
                (0.0, 1.0),
                xycoords="axes fraction",
                xytext=(4, -4),
                textcoords="offset points",
                va="top",
                fontsize=7.5,
                color="#555555",
            )
        if set(curves) != {""}:
            figure.legend(loc="outside lower center", ncols=min(4, len(curves)))
    return figure


def leaves(norms: GradientNorms, *, title: str | None = None) -> Figure:
    """Return one bar for each leaf, the network's input on top, on a logarithmic axis.

    Beyond 48 leaves only every second, third, … name is written.

    Args:
        norms: the result.
        title: above the picture.

    Raises:
        ArgumentError: no leaves.
        PlotError: matplotlib is not installed.
    """
    if not norms.leaves:
        raise ArgumentError("leaves of a result without parameters: there is nothing to draw")
    names = list(norms.leaves)
    with canvas(_height(len(names))) as (figure, axes):
        values = [norms[name] for name in names]
        drawn = [value for value in values if 0 < value < math.inf]
        left = min(drawn, default=0.1) / 3
        axes.barh(
            range(len(names)), [max(v, left) - left if v < math.inf else 0.0 for v in values], left=left, height=0.72
        )
        for bar, name in zip(axes.patches, names, strict=True):
            bar.set_color(COLOURS[1] if name.rpartition(".")[2] == "bias" else COLOURS[0])
        axes.set_xscale("log")
        axes.set_xlim(left, max(drawn, default=1.0) * 1.3)
        _rows(axes, names)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(r"$\Vert \partial\,\mathrm{loss}/\partial \theta \Vert_2$ (biases in orange)")
        axes.set_title(title or "Gradient norm by leaf", loc="left")
        log_ticks(axes, "x")
    return figure


def heat(norms: PerSampleNorms, *, of: Literal["leaves", "blocks"] = "leaves", title: str | None = None) -> Figure:
    """Return the layer × sample heat map of per-sample gradient norms, samples in order of their total norm.

    Args:
        norms: the result.
        of: rows are "leaves", or the innermost "blocks".
        title: above the picture.

    Raises:
        ArgumentError: no leaves.
        PlotError: matplotlib is not installed.
    """
    rows = norms.leaves if of == "leaves" else {name: norms.blocks[name] for name in _innermost(list(norms.blocks))}
    if not rows:
        raise ArgumentError("heat of a result without parameters: there is nothing to draw")
    order = norms.total.argsort(descending=True)
    values = torch.stack([row[order] for row in rows.values()]).cpu()
    with canvas(_height(len(rows))) as (figure, axes):
        image = log_heat(axes, values, aspect="auto")
        _rows(axes, list(rows))
        axes.set_xlabel(f"sample (of {values.shape[1]}), largest total gradient first")
        axes.xaxis.set_major_locator(whole_numbers())
        axes.set_title(title or "Per-sample gradient norm", loc="left")
        bar = figure.colorbar(image, ax=axes, pad=0.015, fraction=0.05, aspect=5 * _height(len(rows)))
        grey = "" if ((values > 0) & values.isfinite()).all() else "\n(grey: 0 or not finite)"
        bar.set_label(r"$\Vert \partial\,\mathrm{loss}_b/\partial \theta \Vert_2$" + grey)
    return figure


def _tagged(norms: GradientNorms, kind: str) -> list[ActivationGradient]:
    return [activation for activation in norms.activations.values() if activation.kind == kind]


def _curve(label: str, norms: GradientNorms | PerSampleNorms, of: str) -> Curve:
    """Return the middle line, and the lower and upper edge of the band where there is one."""
    whose = f" of {label!r}" if label else ""
    if of == "parameters":
        blocks = numbered(list(norms.blocks))
        if not blocks:
            raise ArgumentError(
                f"by_depth: the parameters{whose} have no numbered blocks, such as 'layers.0', to go by"
            )
        if isinstance(norms, GradientNorms):
            return [norms.blocks[block].l2 for block in blocks], None, None
        points = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
        low, middle, high = torch.stack(
            [torch.quantile(norms.blocks[block].cpu(), points) for block in blocks], 1
        ).tolist()
        return middle, low, high
    if of not in ("stream", "branch"):
        raise ArgumentError(f"by_depth of={of!r}: expected 'auto', 'stream', 'branch' or 'parameters'")
    found = _tagged(norms, of) if isinstance(norms, GradientNorms) else []
    if not found:
        raise ArgumentError(
            f"by_depth: the result{whose} has no value tagged as {of}: draw of='parameters', or pure.tag it"
        )
    return [a.median for a in found], [a.p10 for a in found], [a.p90 for a in found]


def numbered(blocks: Sequence[str]) -> list[str]:
    """Return the longest family of blocks that differ in their last, numeric key, in order; the outermost of equals.

    >>> numbered(["", "stem", "layers", "layers.0", "layers.0.branch", "layers.1", "head"])
    ['layers.0', 'layers.1']
    """
    families: dict[str, list[str]] = {}
    for block in blocks:
        parent, _, last = block.rpartition(".")
        if last.isdigit():
            families.setdefault(parent, []).append(block)
    longest = max(families.values(), key=lambda family: (len(family), -family[0].count(".")), default=[])
    return sorted(longest, key=lambda block: int(block.rpartition(".")[2]))


def _innermost(blocks: Sequence[str]) -> list[str]:
    parents = {block.rpartition(".")[0] for block in blocks if block}
    return [block for block in blocks if block not in parents]


def _positive(values: Sequence[float]) -> list[float]:
    return [value if 0 < value < math.inf else math.nan for value in values]


def _height(rows: int) -> float:
    return 1.1 + 0.16 * min(max(rows, 4), MAX_ROWS)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Write the names of the rows, only some of them where there are too many, shortened in the middle if long."""
    step = math.ceil(len(names) / MAX_ROWS)
    shown = range(0, len(names), step)
    short = (name if len(name) <= 30 else f"{name[:12]}…{name[-17:]}" for name in (names[index] for index in shown))
    axes.set_yticks(shown, list(short), fontsize=7.0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
