"""ResNet version 2 in timm, whose head is a 1×1 convolution."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from pure.interop.scheme import Rule, Scheme

__all__ = ["SCHEMES"]


def _matrix(weight: Tensor) -> Tensor:
    return weight.flatten(1)


def _kernel(weight: Tensor) -> Tensor:
    return weight.reshape(*weight.shape, 1, 1)


SCHEMES: Final[tuple[Scheme, ...]] = (
    Scheme(
        "timm",
        "ResNetV2",
        (
            Rule("stem.conv.weight", "stem.conv.weight"),
            Rule("stem.conv{c}.weight", "stem.conv{c}.weight"),
            Rule("stem.norm{c}.{leaf}", "stem.norm{c}.{leaf}"),
            Rule("stages.{s}.{b}.norm{c}.{leaf}", "stages.{s}.blocks.{b}.norm{c}.{leaf}"),
            Rule("stages.{s}.{b}.branch.norm{c}.{leaf}", "stages.{s}.blocks.{b}.norm{c}.{leaf}"),
            Rule("stages.{s}.{b}.branch.conv{c}.weight", "stages.{s}.blocks.{b}.conv{c}.weight"),
            Rule("stages.{s}.{b}.residual.branch.norm{c}.{leaf}", "stages.{s}.blocks.{b}.norm{c}.{leaf}"),
            Rule("stages.{s}.{b}.residual.branch.conv{c}.weight", "stages.{s}.blocks.{b}.conv{c}.weight"),
            Rule("stages.{s}.{b}.residual.shortcut.conv.weight", "stages.{s}.blocks.{b}.downsample.conv.weight"),
            Rule("norm.{leaf}", "norm.{leaf}"),
            Rule("head.weight", "head.fc.weight", load=_matrix, save=_kernel),
            Rule("head.bias", "head.fc.bias"),
        ),
    ),
)
