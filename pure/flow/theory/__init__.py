"""Closed forms for gradients at random initialisation, and what they say of a block, held against draws of it.

Laws A to I are plain functions: moments of plain (A) and residual networks (B), energies of paths (C), spectra (D, E),
correlations across inputs (F, G), pre-norm (H) and highway networks (I). `predict` says which hold for a block and what
they give with its own initialisers; `check` measures over draws and says which agree.
"""

from pure.flow.theory.applicable_laws import predict
from pure.flow.theory.checking import Check, Comparison, check, compare
from pure.flow.theory.draw_measurements import stacked_draws
from pure.flow.theory.laws.correlation import (
    arc_cosine_0,
    arc_cosine_1,
    batch_norm_correlation,
    plain_angles,
    plain_correlation,
    residual_angles,
    residual_correlation,
)
from pure.flow.theory.laws.highway import HighwayStep, gate_moments, highway_step
from pure.flow.theory.laws.path_lengths import mean_path_length, path_energies, path_share
from pure.flow.theory.laws.path_sweep import path_parts
from pure.flow.theory.laws.plain import plain_fourth_moment, plain_second_moment
from pure.flow.theory.laws.pre_norm import partial_jacobian, stream_variance
from pure.flow.theory.laws.residual import (
    branch_gain,
    mix_second_moment,
    residual_fourth_moment,
    residual_second_moment,
)
from pure.flow.theory.laws.spectrum import (
    gaussian_product_density,
    gaussian_product_edge,
    plain_spectrum_ratio,
    residual_limit_density,
    residual_limit_edges,
    residual_limit_moment,
    residual_spectrum_ratio,
)
from pure.flow.theory.prediction import LAWS, Prediction, Predictions
from pure.flow.theory.ratio_estimate import mean_ratio, z_score

__all__ = [
    "LAWS",
    "Check",
    "Comparison",
    "HighwayStep",
    "Prediction",
    "Predictions",
    "arc_cosine_0",
    "arc_cosine_1",
    "batch_norm_correlation",
    "branch_gain",
    "check",
    "compare",
    "gate_moments",
    "gaussian_product_density",
    "gaussian_product_edge",
    "highway_step",
    "mean_path_length",
    "mean_ratio",
    "mix_second_moment",
    "partial_jacobian",
    "path_energies",
    "path_parts",
    "path_share",
    "plain_angles",
    "plain_correlation",
    "plain_fourth_moment",
    "plain_second_moment",
    "plain_spectrum_ratio",
    "predict",
    "residual_angles",
    "residual_correlation",
    "residual_fourth_moment",
    "residual_limit_density",
    "residual_limit_edges",
    "residual_limit_moment",
    "residual_second_moment",
    "residual_spectrum_ratio",
    "stacked_draws",
    "stream_variance",
    "z_score",
]
