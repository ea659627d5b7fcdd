"""ConvNeXt: torchvision's names of version 1, timm's of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import Tensor

from pure.interop.scheme import Groups, Rule, Scheme

__all__ = ["SCHEMES"]

BLOCK: Final = "stages.{s}.blocks.{i}"
DOWN: Final = "stages.{s}.downsample"


def _feature(offset: int, rest: str) -> Callable[[Groups], str]:
    """Return the name in torchvision's flat list, where stage s has index 2s + 1 and its downsampling 2s."""
    return lambda words: f"features.{2 * int(words['s']) + offset}.{rest.format(**words)}"


def _flat(leaf: Tensor) -> Tensor:
    return leaf.flatten()


def _columns(leaf: Tensor) -> Tensor:
    return leaf[:, None, None]


REST: Final = (
    Rule(DOWN + ".norm.{leaf}", DOWN + ".0.{leaf}"),
    Rule(DOWN + ".conv.{leaf}", DOWN + ".1.{leaf}"),
    Rule(BLOCK + ".branch.depthwise.{leaf}", BLOCK + ".conv_dw.{leaf}"),
    Rule(BLOCK + ".branch.norm.{leaf}", BLOCK + ".norm.{leaf}"),
    Rule(BLOCK + ".branch.fc{n}.{leaf}", BLOCK + ".mlp.fc{n}.{leaf}"),
    Rule(BLOCK + ".branch.grn.{leaf}", BLOCK + ".mlp.grn.{leaf}"),
    Rule(BLOCK + ".branch.scale.weight", BLOCK + ".gamma"),
    Rule("norm_pre.{leaf}", "norm_pre.{leaf}"),
    Rule("head.pre_logits.{leaf}", "head.pre_logits.fc.{leaf}"),
    Rule("head.{part}.{leaf}", "head.{part}.{leaf}"),
)
"""timm's names behind the stem."""

SCHEMES: Final[tuple[Scheme, ...]] = (
    Scheme(
        "torchvision",
        "ConvNeXt",
        (
            Rule("stem.conv.{leaf}", "features.0.0.{leaf}"),
            Rule("stem.norm.{leaf}", "features.0.1.{leaf}"),
            Rule(DOWN + ".norm.{leaf}", _feature(0, "0.{leaf}")),
            Rule(DOWN + ".conv.{leaf}", _feature(0, "1.{leaf}")),
            Rule(BLOCK + ".branch.depthwise.{leaf}", _feature(1, "{i}.block.0.{leaf}")),
            Rule(BLOCK + ".branch.norm.{leaf}", _feature(1, "{i}.block.2.{leaf}")),
            Rule(BLOCK + ".branch.fc1.{leaf}", _feature(1, "{i}.block.3.{leaf}")),
            Rule(BLOCK + ".branch.fc2.{leaf}", _feature(1, "{i}.block.5.{leaf}")),
            Rule(BLOCK + ".branch.scale.weight", _feature(1, "{i}.layer_scale"), _flat, _columns),
            Rule("head.norm.{leaf}", "classifier.0.{leaf}"),
            Rule("head.fc.{leaf}", "classifier.2.{leaf}"),
        ),
    ),
    Scheme(
        "timm",
        "ConvNeXt",
        (
            Rule("stem.conv.{leaf}", "stem.0.{leaf}"),
            Rule("stem.norm.{leaf}", "stem.1.{leaf}"),
            Rule("stem.{k}.{leaf}", "stem.{k}.{leaf}"),
            *REST,
        ),
    ),
)
