"""Gradient flow, measured exactly for any pure function: norms by leaf, by block, by depth and by sample."""

from pure.flow import infinite_width, plot, theory
from pure.flow.advice import Advice
from pure.flow.auditing import Audit, BlockDeletion, BlockFlow, PairNorm, PathShares, audit
from pure.flow.autocorrelation import Autocorrelation
from pure.flow.coherence import PathCoherence, path_coherence
from pure.flow.correlation import Correlation, GradientCorrelation, correlation
from pure.flow.curvature import Curvature, curvature
from pure.flow.deletion import Deletion, PairDeletion, deletion
from pure.flow.depth import DepthProfile, Spread, StepProfile, depth_profile
from pure.flow.gates import GateActivity, Gates, gates
from pure.flow.gradients import ActivationGradient, GradientNorms, ParameterGradient, gradient_norms
from pure.flow.kernel import TangentKernel, ntk
from pure.flow.landscape import Landscape, filter_normalised, landscape
from pure.flow.partial_jacobians import PartialJacobians, partial_jacobians
from pure.flow.path_result import PathSpectrum
from pure.flow.paths import path_spectrum, path_spectrum_of_loss
from pure.flow.products import Product, ggn_product, hvp
from pure.flow.results import save_json
from pure.flow.sample_gradients import per_sample_gradients
from pure.flow.samples import PerSampleNorms, per_sample_norms
from pure.flow.signal import ChannelSignal, Signal, signal
from pure.flow.spectrum import JacobianSpectrum, jacobian_spectrum
from pure.flow.style import PlotError
from pure.flow.terminal import rich_table, show

__all__ = [
    "ActivationGradient",
    "Advice",
    "Audit",
    "Autocorrelation",
    "BlockDeletion",
    "BlockFlow",
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
]
