"""Gradient flow, measured exactly for any pure function: norms by leaf, by block, by depth and by sample."""

from pure.flow import plot, theory
from pure.flow.activations.block_deletion import Deletion, PairDeletion, deletion
from pure.flow.activations.gate_activity import GateActivity, Gates, gates
from pure.flow.activations.gradients_by_depth import (
    ActivationGradient,
    GradientNorms,
    ParameterGradient,
    gradient_norms,
)
from pure.flow.activations.signal_propagation import ChannelSignal, Signal, signal
from pure.flow.activations.step_profile import DepthProfile, Spread, StepProfile, depth_profile
from pure.flow.auditing import Advice, Audit, BlockDeletion, BlockFlow, PairNorm, PathShares, audit
from pure.flow.hessian.hessian_products import Product, ggn_product, hvp
from pure.flow.hessian.hessian_spectrum import Curvature, curvature
from pure.flow.hessian.loss_landscape import Landscape, filter_normalised, landscape
from pure.flow.jacobian.autocorrelation import Autocorrelation
from pure.flow.jacobian.depth_pairs import PartialJacobians, partial_jacobians
from pure.flow.jacobian.gradient_correlation import Correlation, GradientCorrelation, correlation
from pure.flow.jacobian.spectrum import JacobianSpectrum, jacobian_spectrum
from pure.flow.kernel import infinite_width
from pure.flow.kernel.tangent_kernel import TangentKernel, ntk
from pure.flow.paths.coherence import PathCoherence, path_coherence
from pure.flow.paths.path_result import PathSpectrum
from pure.flow.paths.path_split import path_spectrum, path_spectrum_of_loss
from pure.flow.per_sample.sample_gradients import per_sample_gradients
from pure.flow.per_sample.sample_norms import PerSampleNorms, per_sample_norms
from pure.flow.plot.result_html import write_html
from pure.flow.plot.style import PlotError
from pure.flow.shared.result import save_json
from pure.flow.shared.tensorboard import to_tensorboard
from pure.flow.shared.terminal import rich_table, show
from pure.flow.watching.run_page import watch_page
from pure.flow.watching.watch import BlockNorms, Observation, Watched, noise_scale, watch

__all__ = [
    "ActivationGradient",
    "Advice",
    "Audit",
    "Autocorrelation",
    "BlockDeletion",
    "BlockFlow",
    "BlockNorms",
    "ChannelSignal",
    "Correlation",
    "Curvature",
    "Deletion",
    "DepthProfile",
    "GateActivity",
    "Gates",
    "GradientCorrelation",
    "GradientNorms",
    "JacobianSpectrum",
    "Landscape",
    "Observation",
    "PairDeletion",
    "PairNorm",
    "ParameterGradient",
    "PartialJacobians",
    "PathCoherence",
    "PathShares",
    "PathSpectrum",
    "PerSampleNorms",
    "PlotError",
    "Product",
    "Signal",
    "Spread",
    "StepProfile",
    "TangentKernel",
    "Watched",
    "audit",
    "correlation",
    "curvature",
    "deletion",
    "depth_profile",
    "filter_normalised",
    "gates",
    "ggn_product",
    "gradient_norms",
    "hvp",
    "infinite_width",
    "jacobian_spectrum",
    "landscape",
    "noise_scale",
    "ntk",
    "partial_jacobians",
    "path_coherence",
    "path_spectrum",
    "path_spectrum_of_loss",
    "per_sample_gradients",
    "per_sample_norms",
    "plot",
    "rich_table",
    "save_json",
    "show",
    "signal",
    "theory",
    "to_tensorboard",
    "watch",
    "watch_page",
    "write_html",
]
