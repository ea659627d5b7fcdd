"""MobileNetV2: torchvision's and timm's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pure.interop.scheme import Groups, Rule, Scheme

__all__ = ["SCHEMES"]

FIRST: Final = {"0.conv": "conv_dw", "0.norm": "bn1", "1": "conv_pw", "2": "bn2"}
"""Names in a block without expansion: the blocks of the first stage."""
EXPANDED: Final = {
    "0.conv": "conv_pw",
    "0.norm": "bn1",
    "1.conv": "conv_dw",
    "1.norm": "bn2",
    "2": "conv_pwl",
    "3": "bn3",
}


def _named(part: str) -> Callable[[Groups], str]:
    """Return the function that gives timm's name of a block's tensor."""

    def name(words: Groups) -> str:
        names = FIRST if words["s"] == "0" else EXPANDED
        return f"blocks.{words['s']}.{words['b']}.{names[part]}.{words['leaf']}"

    return name


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
    Scheme(
        "timm",
        "MobileNetV2",
        (
            *(
                Rule(f"blocks.{{s}}.{{b}}.branch.{part}.{{leaf}}", _named(part))
                for part in dict.fromkeys([*EXPANDED, *FIRST])
            ),
            Rule("{end}.{leaf}", "{end}.{leaf}"),
        ),
    ),
)
