"""Skip connections: what is carried past a branch, and how the two meet again."""

from pure.skips.channel_gates import ECA, ChannelAttention, SelectiveKernel, SpatialAttention, cbam
from pure.skips.conv import basic_block, bottleneck, projection
from pure.skips.convnext import convnext_block
from pure.skips.dense import DenseSkip
from pure.skips.dense_former import DenseFormer, EarlierOutputs
from pure.skips.dense_layers import dense_block, dense_layer, transition
from pure.skips.depth_attention import DepthAttention, DepthRead
from pure.skips.depth_router import MixtureOfDepths
from pure.skips.dual_path import DualPath, dual_path_block
from pure.skips.dynamic import Dynamic
from pure.skips.equilibrium import Equilibrium
from pure.skips.euler import Euler
from pure.skips.exits import EarlyExit
from pure.skips.experts import MixtureOfExperts
from pure.skips.fixup import FixupNormal, fixup, fixup_basic, fixup_bottleneck
from pure.skips.fractal import Fractal, FractalJoin
from pure.skips.gated import Highway
from pure.skips.glu import GLU
from pure.skips.grn import GatedResidualNetwork
from pure.skips.gru_gate import GatedSkip, GRUCellSkip
from pure.skips.halting import ACT, PonderNet, halting_unit
from pure.skips.hyper import HyperConnection, hyper_connected
from pure.skips.inverted import inverted_residual
from pure.skips.laurel import laurel
from pure.skips.long import LongSkip
from pure.skips.manifold import ManifoldConnection, sinkhorn
from pure.skips.momentum import Momentum
from pure.skips.multi_scale import MultiScale, res2net_block
from pure.skips.norm_free import norm_free_block
from pure.skips.one_shot import OneShot, one_shot_aggregation
from pure.skips.placement import (
    deep_norm,
    deep_norm_constants,
    deep_norm_encoder_decoder,
    parallel_branches,
    post_norm,
    pre_norm,
    res_post_norm,
    sandwich,
)
from pure.skips.preactivation import PoolPad, preact_basic, preact_bottleneck, pyramid_block, pyramid_bottleneck
from pure.skips.recurrent_highway import RecurrentHighway
from pure.skips.residual import Residual
from pure.skips.reversal import ReversibleStack
from pure.skips.reversible import Reversible, inverse
from pure.skips.routing import AdaptiveResidual, HardGate, SkipLayer, gate_head
from pure.skips.scalar_gate import ScalarGate
from pure.skips.scaled import Weighted, layer_scale, layer_scale_start, rezero, skip_init, stochastic_depth
from pure.skips.shake import Shake, shake_shake_block
from pure.skips.shortcut import AvgPoolProject, Crop, Identity, Interpolate, Pad, Project, Shortcut
from pure.skips.slimmable import SlimConv2d, SlimLinear, Slimmable, SwitchableBatchNorm
from pure.skips.spatial_gating import SpatialGating, gmlp_block
from pure.skips.split import SplitSkip, cross_stage
from pure.skips.streams import Collapse, Expand
from pure.skips.value_residual import ValueResidual

__all__ = [
    "ACT",
    "ECA",
    "GLU",
    "AdaptiveResidual",
    "AvgPoolProject",
    "ChannelAttention",
    "Collapse",
    "Crop",
    "DenseFormer",
    "DenseSkip",
    "DepthAttention",
    "DepthRead",
    "DualPath",
    "Dynamic",
    "EarlierOutputs",
    "EarlyExit",
    "Equilibrium",
    "Euler",
    "Expand",
    "FixupNormal",
    "Fractal",
    "FractalJoin",
    "GRUCellSkip",
    "GatedResidualNetwork",
    "GatedSkip",
    "HardGate",
    "Highway",
    "HyperConnection",
    "Identity",
    "Interpolate",
    "LongSkip",
    "ManifoldConnection",
    "MixtureOfDepths",
    "MixtureOfExperts",
    "Momentum",
    "MultiScale",
    "OneShot",
    "Pad",
    "PonderNet",
    "PoolPad",
    "Project",
    "RecurrentHighway",
    "Residual",
    "Reversible",
    "ReversibleStack",
    "ScalarGate",
    "SelectiveKernel",
    "Shake",
    "Shortcut",
    "SkipLayer",
    "SlimConv2d",
    "SlimLinear",
    "Slimmable",
    "SpatialAttention",
    "SpatialGating",
    "SplitSkip",
    "SwitchableBatchNorm",
    "ValueResidual",
    "Weighted",
    "basic_block",
    "bottleneck",
    "cbam",
    "convnext_block",
    "cross_stage",
    "deep_norm",
    "deep_norm_constants",
    "deep_norm_encoder_decoder",
    "dense_block",
    "dense_layer",
    "dual_path_block",
    "fixup",
    "fixup_basic",
    "fixup_bottleneck",
    "gate_head",
    "gmlp_block",
    "halting_unit",
    "hyper_connected",
    "inverse",
    "inverted_residual",
    "laurel",
    "layer_scale",
    "layer_scale_start",
    "norm_free_block",
    "one_shot_aggregation",
    "parallel_branches",
    "post_norm",
    "pre_norm",
    "preact_basic",
    "preact_bottleneck",
    "projection",
    "pyramid_block",
    "pyramid_bottleneck",
    "res2net_block",
    "res_post_norm",
    "rezero",
    "sandwich",
    "shake_shake_block",
    "sinkhorn",
    "skip_init",
    "stochastic_depth",
    "transition",
]
