"""The picture of a tangent kernel: the kernel between samples, and its eigenvalues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pure.flow.kernel.tangent_kernel import TangentKernel
from pure.flow.plot.panels import whole_numbers
from pure.flow.plot.style import COLOURS, HEAT, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["tangent_kernel"]


def tangent_kernel(found: TangentKernel, *, title: str | None = None) -> Figure:
    """Return the kernel, summed over equal outputs, as a heat map, and beside it its eigenvalues if it has them.

    Args:
        found: the result.
        title: above the picture.

    Raises:
        PlotError: matplotlib is not installed.
    """
    kernel = found.trace_kernel.cpu()
    with canvas(3.4) as (figure, _):
        figure.clear()
        panels = figure.subplots(1, 2 if found.symmetric else 1, squeeze=False)[0]
        image = panels[0].imshow(kernel.numpy(), cmap=HEAT, interpolation="nearest")
        panels[0].grid(visible=False)
        panels[0].set_xlabel("sample of $x_2$" if not found.symmetric else "sample")
        panels[0].set_ylabel("sample of $x_1$" if not found.symmetric else "sample")
        for axis in (panels[0].xaxis, panels[0].yaxis):
            axis.set_major_locator(whole_numbers())
        figure.colorbar(image, ax=panels[0], fraction=0.05, pad=0.02)
        if found.symmetric:
            values = found.eigenvalues().cpu()
            floor = float(values.max()) * 1e-16
            panels[1].plot(range(1, len(values) + 1), values.clamp_min(floor), color=COLOURS[0], marker="o")
            panels[1].set_yscale("log")
            panels[1].set_xlabel("rank")
            panels[1].set_title("Eigenvalues", loc="left")
            panels[1].xaxis.set_major_locator(whole_numbers())
        panels[0].set_title(title or r"$\Theta = J(x_1)\,J(x_2)^\top$", loc="left")
    return figure
