"""The names of torchvision, timm and transformers, one file a family of networks."""

from typing import Final

from pure.interop.scheme import Scheme
from pure.interop.schemes import (
    bert,
    convnext,
    densenet,
    gpt2,
    llama,
    mixer,
    mobilenet,
    nf_resnet,
    resnet,
    resnetv2,
    vit,
)

__all__ = ["SCHEMES"]

FAMILIES: Final = (resnet, resnetv2, nf_resnet, densenet, mobilenet, convnext, gpt2, bert, llama, vit, mixer)
SCHEMES: Final[tuple[Scheme, ...]] = tuple(scheme for family in FAMILIES for scheme in family.SCHEMES)
