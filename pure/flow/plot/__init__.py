"""The pictures, one for each kind of result.

Each function returns a `matplotlib.figure.Figure`; `figure.savefig(path)` writes it.
"""

from pure.flow.plot.audit import audit_page
from pure.flow.plot.correlation import correlation_by_depth, gradient_cosines, shattering
from pure.flow.plot.curvature import density
from pure.flow.plot.deletion import deletion_curve
from pure.flow.plot.depth import depth_measures
from pure.flow.plot.gates import gate_activity
from pure.flow.plot.gradients import by_depth, heat, leaves
from pure.flow.plot.kernel import tangent_kernel
from pure.flow.plot.landscape import loss_contours, loss_line
from pure.flow.plot.path_plots import coherence, paths
from pure.flow.plot.signal import propagation
from pure.flow.plot.spectrum import partial_norms, singular_values
from pure.flow.plot.theory import agreement, path_lengths, predicted, residual_spectrum

__all__ = [
    "agreement",
    "audit_page",
    "by_depth",
    "coherence",
    "correlation_by_depth",
    "deletion_curve",
    "density",
    "depth_measures",
    "gate_activity",
    "gradient_cosines",
    "heat",
    "leaves",
    "loss_contours",
    "loss_line",
    "partial_norms",
    "path_lengths",
    "paths",
    "predicted",
    "propagation",
    "residual_spectrum",
    "shattering",
    "singular_values",
    "tangent_kernel",
]
