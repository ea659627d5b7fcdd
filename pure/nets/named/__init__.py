"""Networks by the names that timm and torchvision give whole families, read as a grammar instead of a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pure.nets.named import convolutional, residual, tokens

__all__ = ["FAMILIES", "named"]

Named = tuple[Callable[..., Any], dict[str, Any]]
"""The function that makes a network, and the options that the name stands for."""

READERS: Final[tuple[Callable[[str], Named | None], ...]] = (
    residual.resnet,
    residual.resnetv2,
    residual.nf_resnet,
    convolutional.densenet,
    convolutional.convnext,
    convolutional.mobilenetv2,
    tokens.vit,
    tokens.deit,
    tokens.mixer,
)
FAMILIES: Final = (
    "resnet*, seresnet*, resnext*, resnetaa*, resnetblur*, resnetrs*, resnetv2_*, nf_resnet*, densenet*, convnext*, "
    "convnextv2_*, mobilenetv2_*, vit_*, deit_*, deit3_*, mixer_*, gmlp_*"
)
"""What the readers know, for messages."""


def named(name: str) -> Named | None:
    """Return the function and the options of a network of that name; None for a name outside the families.

    >>> function, options = named("resnet34d")
    >>> function.__name__, options["depths"], options["stem"]
    ('resnet_v1', (3, 4, 6, 3), 'deep')
    """
    return next((found for reader in READERS if (found := reader(name)) is not None), None)
