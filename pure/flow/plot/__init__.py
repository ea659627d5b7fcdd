"""The pictures, one for each kind of result.

Each function returns a `matplotlib.figure.Figure`; `figure.savefig(path)` writes it. `DRAWINGS` says which of them
draws a result's `plot()`.
"""

from pure.flow.activations.block_deletion import Deletion
from pure.flow.activations.gate_activity import Gates
from pure.flow.activations.gradients_by_depth import GradientNorms
from pure.flow.activations.signal_propagation import Signal
from pure.flow.activations.step_profile import DepthProfile
from pure.flow.auditing.audit_result import Audit
from pure.flow.hessian.hessian_spectrum import Curvature
from pure.flow.hessian.loss_landscape import Landscape
from pure.flow.jacobian.gradient_correlation import Correlation
from pure.flow.jacobian.partial_norms import PartialJacobians
from pure.flow.jacobian.singular_values import JacobianSpectrum
from pure.flow.kernel.tangent_kernel import TangentKernel
from pure.flow.paths.coherence import PathCoherence
from pure.flow.paths.path_result import PathSpectrum
from pure.flow.per_sample.sample_norms import PerSampleNorms
from pure.flow.plot.activations import deletion_curve, depth_measures, gate_activity, propagation
from pure.flow.plot.audit import audit_page
from pure.flow.plot.correlation import correlation_by_depth, gradient_correlation, gradient_cosines, shattering
from pure.flow.plot.gradients import by_depth, gradient_norms, heat, leaves
from pure.flow.plot.hessian import density, loss_contours, loss_landscape, loss_line
from pure.flow.plot.jacobian import partial_norms, singular_values
from pure.flow.plot.kernel import tangent_kernel
from pure.flow.plot.path_plots import coherence, paths
from pure.flow.plot.theory import agreement, predicted
from pure.flow.shared.result import DRAWINGS
from pure.flow.theory.checking import Check
from pure.flow.theory.prediction import Predictions

__all__ = [
    "DRAWINGS",
    "agreement",
    "audit_page",
    "by_depth",
    "coherence",
    "correlation_by_depth",
    "deletion_curve",
    "density",
    "depth_measures",
    "gate_activity",
    "gradient_correlation",
    "gradient_cosines",
    "gradient_norms",
    "heat",
    "leaves",
    "loss_contours",
    "loss_landscape",
    "loss_line",
    "partial_norms",
    "paths",
    "predicted",
    "propagation",
    "shattering",
    "singular_values",
    "tangent_kernel",
]

DRAWINGS.update(
    {
        Audit: audit_page,
        Check: agreement,
        Correlation: gradient_correlation,
        Curvature: density,
        Deletion: deletion_curve,
        DepthProfile: depth_measures,
        Gates: gate_activity,
        GradientNorms: gradient_norms,
        JacobianSpectrum: singular_values,
        Landscape: loss_landscape,
        PartialJacobians: partial_norms,
        PathCoherence: coherence,
        PathSpectrum: paths,
        PerSampleNorms: heat,
        Predictions: predicted,
        Signal: propagation,
        TangentKernel: tangent_kernel,
    }
)
