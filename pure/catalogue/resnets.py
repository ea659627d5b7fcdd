"""Residual networks for images, each small enough for every check."""

from __future__ import annotations

from functools import partial
from typing import Final

from pure.catalogue.cases import Case
from pure.catalogue.parts import HE
from pure.nets.convolutional.cifar import cifar_preresnet, cifar_pyramidnet, cifar_resnet, cifar_wide_resnet
from pure.nets.convolutional.nf_resnet import norm_free_resnet
from pure.nets.convolutional.resnet import resnet_v1
from pure.nets.convolutional.resnetv2 import resnet_v2

__all__ = ["CASES"]

PICTURE: Final = (4, 3, 32, 32)
SMALL: Final = (4, 3, 12, 12)
FAN_OUT: Final = "He, fan_out"
TIMM: Final = "timm.models.resnet"

CASES: Final[tuple[Case, ...]] = (
    Case(
        "resnet",
        "network",
        partial(resnet_v1, (1, 1, 2, 1), block="basic", widths=(4, 6, 6, 8), num_classes=3),
        PICTURE,
        "stem, stages of relu(S(x) + f(x)), average, head",
        f"{HE}, table 1",
        init=FAN_OUT,
        oracle=f"{TIMM}.ResNet",
    ),
    Case(
        "resnet_d",
        "network",
        partial(
            resnet_v1,
            (1, 1, 2, 1),
            widths=(4, 4, 6, 6),
            num_classes=3,
            stem="deep",
            stem_channels=8,
            avg_down=True,
            squeeze=True,
            drop_path_rate=0.3,
        ),
        PICTURE,
        "deep stem, pooled shortcuts, squeeze-and-excitation",
        "1812.01187",
        init=FAN_OUT,
        oracle=f"{TIMM}.ResNet",
    ),
    Case(
        "resnet_v2",
        "network",
        partial(resnet_v2, (1, 2), widths=(32, 40), num_classes=3, stem_channels=8, drop_path_rate=0.3),
        PICTURE,
        "stem, stages of x + f(relu(BN x)), BN-relu, average, head",
        "1603.05027",
        init=FAN_OUT,
        oracle="timm.models.resnetv2.ResNetV2",
    ),
    Case(
        "norm_free_resnet",
        "network",
        partial(norm_free_resnet, (2, 1), widths=(32, 40), num_classes=3, stem_channels=8, drop_path_rate=0.3),
        PICTURE,
        "stem, stages of x + α f(β φ(x)), φ, average, head",
        "2101.08692",
        init="last gains 0",
        oracle="timm.models.nfnet.NormFreeNet",
    ),
    Case(
        "cifar_resnet",
        "network",
        partial(cifar_resnet, 8, widths=(4, 6, 8), num_classes=3),
        SMALL,
        "relu(S(x) + f(x)), S pads",
        f"{HE}, section 4.2, option A",
        init=FAN_OUT,
    ),
    Case(
        "cifar_resnet_projected",
        "network",
        partial(cifar_resnet, 8, shortcut="B", widths=(4, 6, 8), num_classes=3),
        PICTURE,
        "relu(S(x) + f(x)), S projects",
        f"{HE}, section 4.2, option B",
        init=FAN_OUT,
        oracle="pytorchcv.models.resnet_cifar.CIFARResNet",
    ),
    Case(
        "cifar_preresnet",
        "network",
        partial(cifar_preresnet, 11, block="bottleneck", widths=(4, 6, 8), num_classes=3),
        PICTURE,
        "x + f(relu(BN x))",
        "1603.05027",
        init=FAN_OUT,
        oracle="pytorchcv.models.preresnet_cifar.CIFARPreResNet",
    ),
    Case(
        "cifar_wide_resnet",
        "network",
        partial(cifar_wide_resnet, 10, 2, widths=(3, 4, 5), num_classes=3),
        PICTURE,
        "x + f(relu(BN x)), k times as wide",
        "1605.07146, table 1",
        init=FAN_OUT,
        oracle="pytorchcv.models.wrn_cifar.CIFARWRN",
        smooth=False,
    ),
    Case(
        "cifar_pyramidnet",
        "network",
        partial(cifar_pyramidnet, 8, 7, width=4, num_classes=3),
        PICTURE,
        "S(x) + f(x), wider block by block",
        "1610.02915, additive",
        init=FAN_OUT,
        oracle="pytorchcv.models.pyramidnet_cifar.CIFARPyramidNet",
    ),
)
