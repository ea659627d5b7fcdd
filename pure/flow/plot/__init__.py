"""The pictures, one for each kind of result.

Each function returns a `matplotlib.figure.Figure`; `figure.savefig(path)` writes it.
"""

from pure.flow.plot.gradients import by_depth, heat, leaves

__all__ = ["by_depth", "heat", "leaves"]
