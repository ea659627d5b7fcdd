"""The common style: Okabe–Ito colours, distinct markers, sizes for print; imports matplotlib only when drawing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from pure.errors import PureError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "MARKERS", "PlotError", "canvas"]

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart in every common colour blindness; without the yellow, too pale for lines."""

MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")

HEAT: Final = "cividis"
"""Colour map that reads the same in every common colour blindness and in grey."""

WIDTH_INCHES: Final = 6.4

STYLE: Final[Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "figure.dpi": 120.0,
    "savefig.dpi": 200.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
}


class PlotError(PureError, RuntimeError):
    """A picture asked for where matplotlib is not installed.

    Fails: `norms.plot()`. Fix: `pip install "pure-export[report]"`.
    """


@contextmanager
def canvas(height_inches: float = 3.6, width_inches: float = WIDTH_INCHES) -> Iterator[tuple[Figure, Axes]]:
    """Give an empty figure and its axes in the common style; nothing global is changed, and pyplot is never imported.

    Raises:
        PlotError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError('pictures need matplotlib: pip install "pure-export[report]"') from error

    class Picture(Figure):  # made here, because its base is imported here
        """A figure that a notebook shows as the value of a cell, without a magic and without pyplot."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    with matplotlib.rc_context(STYLE):
        figure = Picture(figsize=(width_inches, height_inches), layout="constrained")
        yield figure, figure.subplots()
