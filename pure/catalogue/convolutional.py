"""Convolutional blocks and networks: inverted residual, ConvNeXt, long and dense skips."""

from __future__ import annotations

from functools import partial
from typing import Final

from pure.block import Block
from pure.catalogue.cases import Case
from pure.catalogue.parts import HE, IMAGE
from pure.compose import Sequential
from pure.layers import Activation, Conv1d, Conv2d, Conv3d
from pure.layers.axes import MoveAxis, Upsample
from pure.layers.channel_norm import ChannelNorm, GlobalResponseNorm
from pure.nets.convolutional.convnext import convnext
from pure.nets.convolutional.densenet import densenet, densenet_cifar
from pure.nets.convolutional.mobilenet import mobilenet_v2
from pure.nets.convolutional.unet import unet
from pure.skips import Crop, Pad, Project, Residual
from pure.skips.additive.conv_orders import conv_norm_act
from pure.skips.additive.convnext import convnext_block
from pure.skips.additive.inverted import inverted_residual
from pure.skips.additive.long_skip import LongSkip
from pure.skips.dense.cross_stage_partial import cross_stage
from pure.skips.dense.dense_layers import dense_block, dense_layer, transition
from pure.skips.dense.dual_path import dual_path_block
from pure.skips.dense.one_shot_aggregation import one_shot_aggregation

__all__ = ["CASES"]

DENSENET: Final = "Huang et al. 2016 (1608.06993)"
CONVNEXT: Final = "Liu et al. 2022 (2201.03545)"
CONVNEXT2: Final = "Woo et al. 2023 (2301.00808)"
MOBILENET: Final = "Sandler et al. 2018 (1801.04381)"
UNET: Final = "Ronneberger et al. 2015 (1505.04597)"
VOLUME: Final = (2, 2, 3, 5, 5)
PHOTO: Final = (2, 3, 32, 32)


def _inner() -> Block:
    return Sequential(Conv2d(4, 4, 3, padding=1), Activation("tanh"))


def _darknet_block(channels: int) -> Block:
    return Residual(Sequential(conv1=conv_norm_act(channels, 2), conv2=conv_norm_act(2, channels, 3)))


CASES: Final[tuple[Case, ...]] = (
    Case(
        "channel_norm",
        "layer",
        lambda: ChannelNorm(4),
        IMAGE,
        "γ (x − E x) / √(Var x + ε) + β over channels",
        f"{CONVNEXT}, section 2.6",
        oracle="timm.layers.LayerNorm2d",
    ),
    Case(
        "global_response_norm",
        "layer",
        lambda: GlobalResponseNorm(4),
        (3, 5, 6, 4),
        "x + γ x ‖x_c‖ / mean ‖x_c‖ + β",
        f"{CONVNEXT2}, algorithm 1",
        init="γ = β = 0",
        oracle="timm.layers.grn.GlobalResponseNorm",
    ),
    Case(
        "global_response_norm_first",
        "layer",
        lambda: GlobalResponseNorm(4, axis=1),
        IMAGE,
        "x + γ x ‖x_c‖ / mean ‖x_c‖ + β",
        f"{CONVNEXT2}, algorithm 1",
        init="γ = β = 0",
        oracle="timm.layers.grn.GlobalResponseNorm (channels_last=False)",
    ),
    Case(
        "move_axis",
        "layer",
        lambda: MoveAxis(1, -1),
        IMAGE,
        "axes in another order",
        "torch.movedim",
        oracle="torchvision.ops.Permute",
    ),
    Case(
        "upsample",
        "layer",
        lambda: Upsample(2),
        IMAGE,
        "every value twice along each axis",
        "torch.nn.Upsample",
        oracle="torch.nn.Upsample",
    ),
    Case(
        "pad_1d",
        "shortcut",
        lambda: Residual(Conv1d(4, 7, 3, padding=1, stride=2), Pad(stride=2, where="centred")),
        (4, 4, 9),
        "[0, x, 0] + f(x)",
        f"{HE}, option A",
    ),
    Case(
        "pad_3d",
        "shortcut",
        lambda: Residual(Conv3d(2, 3, 3, padding=1, stride=2), Pad(stride=2)),
        VOLUME,
        "[x, 0] + f(x)",
        f"{HE}, option A",
    ),
    Case(
        "project_1d",
        "shortcut",
        lambda: Residual(Conv1d(4, 6, 3, padding=1, stride=2), Project(4, 6, stride=2, dims=1, norm=True)),
        (4, 4, 9),
        "BN(W x) + f(x)",
        f"{HE}, option B",
    ),
    Case(
        "project_3d",
        "shortcut",
        lambda: Residual(Conv3d(2, 3, 3, padding=1), Project(2, 3, dims=3)),
        VOLUME,
        "W x + f(x)",
        f"{HE}, option B",
    ),
    Case(
        "inverted_residual",
        "additive",
        lambda: inverted_residual(4, 4, expand=3),
        IMAGE,
        "x + project(depthwise(expand x))",
        f"{MOBILENET}, figure 4d",
        init="He, fan_out",
        oracle="torchvision.models.mobilenetv2.InvertedResidual",
    ),
    Case(
        "inverted_residual_strided",
        "additive",
        lambda: inverted_residual(4, 6, 2, 1),
        IMAGE,
        "project(depthwise x)",
        f"{MOBILENET}, figure 4d",
        init="He, fan_out",
        oracle="torchvision.models.mobilenetv2.InvertedResidual",
    ),
    Case(
        "convnext_block",
        "additive",
        lambda: convnext_block(4, drop_path=0.25),
        IMAGE,
        "x + DP(γ ⊙ W₂ gelu(W₁ LN(dw₇ x)))",
        f"{CONVNEXT}, figure 4",
        init="γ = 1e-6",
        oracle="torchvision.models.convnext.CNBlock",
    ),
    Case(
        "convnextv2_block",
        "additive",
        lambda: convnext_block(4, layer_scale=None, response_norm=True, drop_path=0.25),
        IMAGE,
        "x + DP(W₂ GRN(gelu(W₁ LN(dw₇ x))))",
        f"{CONVNEXT2}, figure 5",
        init="GRN's γ = β = 0",
        oracle="timm.models.convnext.ConvNeXtBlock",
    ),
    Case("long_skip_concat", "additive", lambda: LongSkip(_inner()), IMAGE, "[x, g(x)]", f"{UNET}, figure 1"),
    Case(
        "long_skip_concat_cropped",
        "additive",
        lambda: LongSkip(Conv2d(4, 3, 3), shortcut=Crop()),
        IMAGE,
        "[centre(x), g(x)]",
        f"{UNET}, figure 1",
    ),
    Case("long_skip_sum", "additive", lambda: LongSkip(_inner(), "sum"), IMAGE, "x + g(x)", f"{UNET}, figure 1"),
    Case(
        "long_skip_product", "additive", lambda: LongSkip(_inner(), "product"), IMAGE, "x ⊙ g(x)", f"{UNET}, figure 1"
    ),
    Case(
        "dense_layer",
        "dense",
        lambda: dense_layer(4, 3, None),
        IMAGE,
        "[x, W relu(BN x)]",
        f"{DENSENET}, section 3",
        init="He, fan_in",
    ),
    Case(
        "dense_layer_bottleneck",
        "dense",
        lambda: dense_layer(4, 3, 2),
        IMAGE,
        "[x, W₂ relu(BN(W₁ relu(BN x)))]",
        f"{DENSENET}, section 3",
        init="He, fan_in",
        oracle="torchvision.models.densenet._DenseLayer",
    ),
    Case(
        "dense_layer_dropout",
        "dense",
        lambda: dense_layer(4, 3, 2, dropout=0.25),
        IMAGE,
        "[x, dropout(H(x))]",
        f"{DENSENET}, section 4.2",
        init="He, fan_in",
        oracle="torchvision.models.densenet._DenseLayer (drop_rate)",
    ),
    Case(
        "dense_block_bc",
        "dense",
        lambda: dense_block(4, 3, 3, 2),
        IMAGE,
        "x_l = H_l([x₀, …, x_{l−1}])",
        f"{DENSENET}, equation 2",
        init="He, fan_in",
        oracle="torchvision.models.densenet._DenseBlock",
    ),
    Case(
        "dense_transition",
        "dense",
        lambda: transition(4, 2),
        IMAGE,
        "avgpool₂(W relu(BN x))",
        f"{DENSENET}, section 3",
        init="He, fan_in",
        oracle="torchvision.models.densenet._Transition",
    ),
    Case(
        "cross_stage_partial",
        "dense",
        lambda: cross_stage(4, 8, Sequential(_darknet_block(4), _darknet_block(4))),
        IMAGE,
        "M[e₁, T(g(e₂))], [e₁, e₂] = E x",
        "Wang et al. 2019 (1911.11929), figure 2b",
        oracle="timm.models.cspnet.CrossStage",
    ),
    Case(
        "one_shot_aggregation",
        "dense",
        lambda: one_shot_aggregation(4, 3, 8, 3),
        IMAGE,
        "W[x, f₁(x), f₂(f₁(x)), …]",
        "Lee et al. 2019 (1904.09730), section 3.2",
        oracle="timm.models.vovnet.OsaBlock",
    ),
    Case(
        "one_shot_aggregation_residual",
        "dense",
        lambda: one_shot_aggregation(4, 3, 4, 2, residual=True, drop_path=0.25),
        IMAGE,
        "x + DP(W[x, f₁(x), f₂(f₁(x)), …])",
        "Lee and Park 2019 (1911.06667), figure 3",
        oracle="timm.models.vovnet.OsaBlock (residual)",
    ),
    Case(
        "dual_path",
        "dense",
        lambda: dual_path_block(6, 4, 4, 2, groups=2),
        (3, 6, 6, 6),
        "[x₁ + f₁(x), x₂, f₂(x)]",
        "Chen et al. 2017 (1707.01629), figure 2d",
        oracle="timm.models.dpn.DualPathBlock",
    ),
    Case(
        "dual_path_project",
        "dense",
        lambda: dual_path_block(4, 4, 4, 2, stride=2, project=True),
        IMAGE,
        "[s₁ + f₁(x), s₂, f₂(x)], [s₁, s₂] = S(x)",
        "Chen et al. 2017 (1707.01629), figure 2d",
        oracle="timm.models.dpn.DualPathBlock (down)",
    ),
    Case(
        "densenet",
        "network",
        partial(densenet, 4, (2, 2), 8, bottleneck=2, num_classes=4),
        PHOTO,
        "dense blocks with transitions between them",
        f"{DENSENET}, table 1",
        init="He, fan_in",
        oracle="torchvision.models.densenet.DenseNet",
    ),
    Case(
        "densenet_cifar",
        "network",
        partial(densenet_cifar, 10, 3, stem_channels=6, drop_rate=0.2, num_classes=4),
        (2, 3, 12, 12),
        "three dense blocks without bottlenecks",
        f"{DENSENET}, section 3",
        init="He, fan_in",
    ),
    Case(
        "mobilenet_v2",
        "network",
        partial(mobilenet_v2, 0.25, num_classes=4, stages=((1, 16, 1, 1), (6, 32, 2, 2))),
        PHOTO,
        "inverted residuals",
        f"{MOBILENET}, table 2",
        init="He, fan_out",
        oracle="torchvision.models.mobilenetv2.MobileNetV2",
    ),
    Case(
        "convnext",
        "network",
        partial(convnext, (1, 2), (4, 8), num_classes=4, layer_scale=0.5, drop_path_rate=0.2),
        PHOTO,
        "ConvNeXt blocks, version 1",
        f"{CONVNEXT}, section 2",
        init="γ = 1e-6 by default",
        oracle="torchvision.models.convnext.ConvNeXt",
    ),
    Case(
        "convnextv2",
        "network",
        partial(
            convnext,
            (1, 1, 2, 1),
            (4, 4, 8, 8),
            num_classes=4,
            layer_scale=None,
            response_norm=True,
            drop_path_rate=0.2,
        ),
        PHOTO,
        "ConvNeXt blocks, version 2",
        f"{CONVNEXT2}, section 3",
        init="GRN's γ = β = 0",
        oracle="timm.models.convnext.ConvNeXt",
    ),
    Case(
        "unet",
        "network",
        partial(unet, 3, 2, (2, 3, 4)),
        (2, 3, 12, 12),
        "D[e, up(u(maxpool₂ e))], e = E x",
        f"{UNET}, figure 1",
        init="He, fan_in",
    ),
    Case(
        "unet_1d",
        "network",
        partial(unet, 2, 2, (2, 3), dims=1, padding=0, norm=True),
        (3, 2, 20),
        "D[centre(e), up(u(maxpool₂ e))], e = E x",
        f"{UNET}, figure 1",
        init="He, fan_in",
    ),
)
