"""The names of torchvision, timm and transformers, one file a family of networks."""

from typing import Final

from pure.interop.scheme import Scheme
from pure.interop.schemes import bert, convnext, densenet, gpt2, llama, mobilenet, nf_resnet, resnet, resnetv2, vit

__all__ = ["SCHEMES"]

SCHEMES: Final[tuple[Scheme, ...]] = (
    *resnet.SCHEMES,
    *resnetv2.SCHEMES,
    *nf_resnet.SCHEMES,
    *densenet.SCHEMES,
    *mobilenet.SCHEMES,
    *convnext.SCHEMES,
    *gpt2.SCHEMES,
    *bert.SCHEMES,
    *llama.SCHEMES,
    *vit.SCHEMES,
)
