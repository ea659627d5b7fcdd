"""MobileNetV2: torchvision's names."""

from __future__ import annotations

from typing import Final

from pure.interop.scheme import Rule, Scheme

__all__ = ["SCHEMES"]

SCHEMES: Final[tuple[Scheme, ...]] = (
    Scheme(
        "torchvision",
        "MobileNetV2",
        (
            Rule("features.{i}.branch.{j}.conv.{leaf}", "features.{i}.conv.{j}.0.{leaf}"),
            Rule("features.{i}.branch.{j}.norm.{leaf}", "features.{i}.conv.{j}.1.{leaf}"),
            Rule("features.{i}.branch.{j}.{leaf}", "features.{i}.conv.{j}.{leaf}"),
            Rule("features.{i}.conv.{leaf}", "features.{i}.0.{leaf}"),
            Rule("features.{i}.norm.{leaf}", "features.{i}.1.{leaf}"),
            Rule("classifier.{i}.{leaf}", "classifier.{i}.{leaf}"),
        ),
    ),
)
