"""Skip connections: what is carried past a branch, and how the two meet again."""

from pure.skips.additive.conv_blocks import basic_block, bottleneck, projection
from pure.skips.additive.convnext import convnext_block
from pure.skips.additive.fractal import Fractal, FractalJoin
from pure.skips.additive.inverted import inverted_residual
from pure.skips.additive.long_skip import LongSkip
from pure.skips.additive.multi_scale import MultiScale, res2net_block
from pure.skips.additive.preactivation import (
    PoolPad,
    preact_basic,
    preact_bottleneck,
    pyramid_block,
    pyramid_bottleneck,
)
from pure.skips.additive.residual import Residual
from pure.skips.additive.shake import Shake, shake_shake_block
from pure.skips.additive.shortcut import AvgPoolProject, Crop, Identity, Interpolate, Pad, Project, Shortcut
from pure.skips.dense.cross_stage_partial import SplitSkip, cross_stage
from pure.skips.dense.dense_layers import dense_block, dense_layer, transition
from pure.skips.dense.dense_skip import DenseSkip
from pure.skips.dense.dual_path import DualPath, dual_path_block
from pure.skips.dense.one_shot_aggregation import OneShot, one_shot_aggregation
from pure.skips.dynamic.early_exits import EarlyExit
from pure.skips.dynamic.external_control import Dynamic
from pure.skips.dynamic.halting import ACT, PonderNet, halting_unit
from pure.skips.dynamic.mixture_of_depths import MixtureOfDepths
from pure.skips.dynamic.mixture_of_experts import MixtureOfExperts
from pure.skips.dynamic.routing import AdaptiveResidual, HardGate, SkipLayer, gate_head
from pure.skips.dynamic.slimmable import SlimConv2d, SlimLinear, Slimmable, SwitchableBatchNorm
from pure.skips.gated.channel_gates import ECA, ChannelAttention, SelectiveKernel, SpatialAttention, cbam
from pure.skips.gated.glu import GLU
from pure.skips.gated.grn import GatedResidualNetwork
from pure.skips.gated.gru_gate import GatedSkip, GRUCellSkip
from pure.skips.gated.highway import Highway
from pure.skips.gated.recurrent_highway import RecurrentHighway
from pure.skips.gated.scalar_gate import ScalarGate
from pure.skips.gated.spatial_gating import SpatialGating, gmlp_block
from pure.skips.reversible.coupling import Reversible, inverse
from pure.skips.reversible.equilibrium import Equilibrium
from pure.skips.reversible.euler import Euler
from pure.skips.reversible.momentum import Momentum
from pure.skips.reversible.reversal import ReversibleStack
from pure.skips.scaled.factors import Weighted, layer_scale, layer_scale_start, rezero, skip_init, stochastic_depth
from pure.skips.scaled.fixup import FixupNormal, fixup, fixup_basic, fixup_bottleneck
from pure.skips.scaled.norm_free import norm_free_block
from pure.skips.scaled.norm_placement import (
    deep_norm,
    deep_norm_constants,
    deep_norm_encoder_decoder,
    parallel_branches,
    post_norm,
    pre_norm,
    res_post_norm,
    sandwich,
)
from pure.skips.streams.dense_former import DenseFormer, EarlierOutputs
from pure.skips.streams.depth_attention import DepthAttention, DepthRead
from pure.skips.streams.hyper_connections import HyperConnection, hyper_connected
from pure.skips.streams.laurel import laurel
from pure.skips.streams.manifold_hyper_connections import ManifoldConnection, sinkhorn
from pure.skips.streams.stream_axis import Collapse, Expand
from pure.skips.streams.value_residual import ValueResidual

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
