"""MLP-Mixer and gMLP: timm's names."""

from __future__ import annotations

from typing import Final

from pure.interop.scheme import Rule, Scheme

__all__ = ["SCHEMES"]

BLOCK: Final = "blocks.{i}."
ENDS: Final = (
    Rule("stem.proj.{leaf}", "stem.proj.{leaf}"),
    Rule("norm.{leaf}", "norm.{leaf}"),
    Rule("head.{leaf}", "head.{leaf}"),
)

SCHEMES: Final[tuple[Scheme, ...]] = (
    Scheme(
        "timm",
        "MLP-Mixer",
        (
            Rule(BLOCK + "tokens.branch.norm.{leaf}", BLOCK + "norm1.{leaf}"),
            Rule(BLOCK + "tokens.branch.mlp.{fc}.{leaf}", BLOCK + "mlp_tokens.{fc}.{leaf}"),
            Rule(BLOCK + "channels.branch.norm.{leaf}", BLOCK + "norm2.{leaf}"),
            Rule(BLOCK + "channels.branch.mlp.{fc}.{leaf}", BLOCK + "mlp_channels.{fc}.{leaf}"),
            *ENDS,
        ),
    ),
    Scheme(
        "timm",
        "gMLP",
        (
            Rule(BLOCK + "branch.norm.{leaf}", BLOCK + "norm.{leaf}"),
            Rule(BLOCK + "branch.{rest}", BLOCK + "mlp_channels.{rest}"),
            *ENDS,
        ),
    ),
)
