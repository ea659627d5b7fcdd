"""DenseNets: the names that torchvision and timm share."""

from __future__ import annotations

from typing import Final

from pure.interop.scheme import Rule, Scheme

__all__ = ["SCHEMES"]

LAYER: Final = "features.denseblock{b}.denselayer{l}"
RULES: Final = (
    Rule(LAYER + ".branch.{part}.{leaf}", LAYER + ".{part}.{leaf}"),
    Rule("features.transition{t}.{part}.{leaf}", "features.transition{t}.{part}.{leaf}"),
    Rule("features.{part}.{leaf}", "features.{part}.{leaf}"),
    Rule("classifier.{leaf}", "classifier.{leaf}"),
)

OLDER: Final = (Rule(LAYER + ".branch.{part}{n}.{leaf}", LAYER + ".{part}.{n}.{leaf}"), *RULES[1:])
"""What torchvision's files of 2017 say: `denselayer1.norm.1.weight` for `denselayer1.norm1.weight`."""

SCHEMES: Final[tuple[Scheme, ...]] = (
    Scheme("torchvision", "DenseNet", RULES),
    Scheme("timm", "DenseNet", RULES),
    Scheme("torchvision", "DenseNet, older files", OLDER, reads_only=True),
)
