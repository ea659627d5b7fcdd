"""Norm-free ResNet in timm."""

from __future__ import annotations

from typing import Final

from pure.interop.scheme import Rule, Scheme

__all__ = ["SCHEMES"]

SCHEMES: Final[tuple[Scheme, ...]] = (
    Scheme(
        "timm",
        "NormFreeNet",
        (
            Rule("stem.conv.{leaf}", "stem.conv.{leaf}"),
            Rule("stages.{s}.{b}.branch.conv{c}.{leaf}", "stages.{s}.{b}.conv{c}.{leaf}"),
            Rule("stages.{s}.{b}.residual.branch.conv{c}.{leaf}", "stages.{s}.{b}.conv{c}.{leaf}"),
            Rule("stages.{s}.{b}.residual.shortcut.conv.{leaf}", "stages.{s}.{b}.downsample.conv.{leaf}"),
            Rule("stages.{s}.{b}.branch.skip_init.weight", "stages.{s}.{b}.skipinit_gain"),
            Rule("stages.{s}.{b}.residual.branch.skip_init.weight", "stages.{s}.{b}.skipinit_gain"),
            Rule("head.{leaf}", "head.fc.{leaf}"),
        ),
    ),
)
