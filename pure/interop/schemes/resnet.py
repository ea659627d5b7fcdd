"""ResNet version 1 in torchvision and timm."""

from __future__ import annotations

from typing import Final

from pure.interop.scheme import Rule, Scheme

__all__ = ["SCHEMES"]

PLAIN: Final = (
    Rule("conv1.{leaf}", "conv1.{leaf}"),
    Rule("bn1.{leaf}", "bn1.{leaf}"),
    Rule("layer{n}.{i}.branch.{part}.{leaf}", "layer{n}.{i}.{part}.{leaf}"),
    Rule("layer{n}.{i}.shortcut.conv.{leaf}", "layer{n}.{i}.downsample.0.{leaf}"),
    Rule("layer{n}.{i}.shortcut.norm.{leaf}", "layer{n}.{i}.downsample.1.{leaf}"),
    Rule("fc.{leaf}", "fc.{leaf}"),
)
OPTIONS: Final = (
    Rule("conv1.{k}.{leaf}", "conv1.{k}.{leaf}"),
    Rule("maxpool.{k}.{leaf}", "maxpool.{k}.{leaf}"),
    Rule("layer{n}.{i}.branch.se.{part}.{leaf}", "layer{n}.{i}.se.{part}.{leaf}"),
    Rule("layer{n}.{i}.shortcut.project.conv.{leaf}", "layer{n}.{i}.downsample.1.{leaf}"),
    Rule("layer{n}.{i}.shortcut.project.norm.{leaf}", "layer{n}.{i}.downsample.2.{leaf}"),
)
"""What timm has beyond torchvision: a deep stem, squeeze-and-excitation, pooled shortcuts."""

SCHEMES: Final[tuple[Scheme, ...]] = (
    Scheme("torchvision", "ResNet", PLAIN),
    Scheme("timm", "ResNet", PLAIN + OPTIONS),
)
