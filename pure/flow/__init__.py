"""Gradient flow, measured exactly for any pure function: norms by leaf, by block, by depth and by sample."""

from pure.flow import plot
from pure.flow.gradients import ActivationGradient, GradientNorms, ParameterGradient, gradient_norms
from pure.flow.samples import PerSampleNorms, per_sample_norms
from pure.flow.style import PlotError

__all__ = [
    "ActivationGradient",
    "GradientNorms",
    "ParameterGradient",
    "PerSampleNorms",
    "PlotError",
    "gradient_norms",
    "per_sample_norms",
    "plot",
]
