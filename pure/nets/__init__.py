"""Whole networks: `create(name, **options)` or the function of that name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Final

from pure.block import Block
from pure.errors import ArgumentError, nearest
from pure.nets.convolutional.cifar import (
    cifar_preresnet,
    cifar_pyramidnet,
    cifar_resnet,
    cifar_wide_resnet,
    preresnet110,
    preresnet164,
    preresnet1001,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
    resnet1202,
    wrn28_10,
)
from pure.nets.convolutional.convnext import (
    convnext,
    convnext_base,
    convnext_large,
    convnext_small,
    convnext_tiny,
    convnextv2_base,
    convnextv2_large,
    convnextv2_small,
    convnextv2_tiny,
)
from pure.nets.convolutional.densenet import (
    densenet,
    densenet40_12,
    densenet121,
    densenet161,
    densenet169,
    densenet201,
    densenet_bc100_12,
    densenet_cifar,
)
from pure.nets.convolutional.fixup import fixup_resnet, fixup_resnet20, fixup_resnet110
from pure.nets.convolutional.mobilenet import mobilenet_v2
from pure.nets.convolutional.nf_resnet import nf_resnet50, norm_free_resnet
from pure.nets.convolutional.resnet import (
    resnet18,
    resnet18d,
    resnet34,
    resnet50,
    resnet50d,
    resnet101,
    resnet152,
    resnet_v1,
    resnext50_32x4d,
    seresnet50,
    wide_resnet50_2,
    wide_resnet101_2,
)
from pure.nets.convolutional.resnetv2 import resnet_v2, resnetv2_50
from pure.nets.convolutional.unet import unet
from pure.nets.small.digit_classifiers import dense_mlp, highway_mlp, plain_mlp, skip_mlp
from pure.nets.small.tutorial import (
    dynamic_net,
    residual_block,
    residual_mlp,
    residual_mlp_block,
    simple_block,
    simple_block_with_skip,
    tutorial_resnet,
)
from pure.nets.transformers.bert import bert_base, bert_layer
from pure.nets.transformers.gpt2 import gpt2, gpt2_block, gpt2_medium
from pure.nets.transformers.layer import transformer_layer
from pure.nets.transformers.llama import llama, llama_block
from pure.nets.transformers.parts import transformer_block
from pure.nets.transformers.vit import (
    vision_transformer,
    vit_b_16,
    vit_b_32,
    vit_base_patch16_224,
    vit_h_14,
    vit_l_16,
    vit_l_32,
    vit_large_patch16_224,
    vit_small_patch16_224,
    vit_tiny_patch16_224,
)

__all__ = [
    "bert_base",
    "bert_layer",
    "cifar_preresnet",
    "cifar_pyramidnet",
    "cifar_resnet",
    "cifar_wide_resnet",
    "convnext",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "convnextv2_base",
    "convnextv2_large",
    "convnextv2_small",
    "convnextv2_tiny",
    "create",
    "dense_mlp",
    "densenet",
    "densenet40_12",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "densenet_bc100_12",
    "densenet_cifar",
    "dynamic_net",
    "fixup_resnet",
    "fixup_resnet20",
    "fixup_resnet110",
    "gpt2",
    "gpt2_block",
    "gpt2_medium",
    "highway_mlp",
    "llama",
    "llama_block",
    "mobilenet_v2",
    "names",
    "nf_resnet50",
    "norm_free_resnet",
    "plain_mlp",
    "preresnet110",
    "preresnet164",
    "preresnet1001",
    "residual_block",
    "residual_mlp",
    "residual_mlp_block",
    "resnet18",
    "resnet18d",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet50d",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
    "resnet1202",
    "resnet_v1",
    "resnet_v2",
    "resnetv2_50",
    "resnext50_32x4d",
    "seresnet50",
    "simple_block",
    "simple_block_with_skip",
    "skip_mlp",
    "transformer_block",
    "transformer_layer",
    "tutorial_resnet",
    "unet",
    "vision_transformer",
    "vit_b_16",
    "vit_b_32",
    "vit_base_patch16_224",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
    "vit_large_patch16_224",
    "vit_small_patch16_224",
    "vit_tiny_patch16_224",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "wrn28_10",
]

NETWORKS: Final[dict[str, Callable[..., Block]]] = {
    "dynamic_net": dynamic_net,
    "residual_block": residual_block,
    "residual_mlp": residual_mlp,
    "residual_mlp_block": residual_mlp_block,
    "simple_block": simple_block,
    "simple_block_with_skip": simple_block_with_skip,
    "tutorial_resnet": tutorial_resnet,
    "dense_mlp": dense_mlp,
    "highway_mlp": highway_mlp,
    "plain_mlp": plain_mlp,
    "skip_mlp": skip_mlp,
    "resnet18": resnet18,
    "resnet18d": resnet18d,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet50d": resnet50d,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "resnet_v1": resnet_v1,
    "resnext50_32x4d": resnext50_32x4d,
    "seresnet50": seresnet50,
    "wide_resnet50_2": wide_resnet50_2,
    "wide_resnet101_2": wide_resnet101_2,
    "resnet_v2": resnet_v2,
    "resnetv2_50": resnetv2_50,
    "nf_resnet50": nf_resnet50,
    "norm_free_resnet": norm_free_resnet,
    "cifar_preresnet": cifar_preresnet,
    "cifar_pyramidnet": cifar_pyramidnet,
    "cifar_resnet": cifar_resnet,
    "cifar_wide_resnet": cifar_wide_resnet,
    "preresnet110": preresnet110,
    "preresnet164": preresnet164,
    "preresnet1001": preresnet1001,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "resnet1202": resnet1202,
    "wrn28_10": wrn28_10,
    "fixup_resnet": fixup_resnet,
    "fixup_resnet20": fixup_resnet20,
    "fixup_resnet110": fixup_resnet110,
    "densenet": densenet,
    "densenet40_12": densenet40_12,
    "densenet121": densenet121,
    "densenet161": densenet161,
    "densenet169": densenet169,
    "densenet201": densenet201,
    "densenet_bc100_12": densenet_bc100_12,
    "densenet_cifar": densenet_cifar,
    "mobilenet_v2": mobilenet_v2,
    "convnext": convnext,
    "convnext_base": convnext_base,
    "convnext_large": convnext_large,
    "convnext_small": convnext_small,
    "convnext_tiny": convnext_tiny,
    "convnextv2_base": convnextv2_base,
    "convnextv2_large": convnextv2_large,
    "convnextv2_small": convnextv2_small,
    "convnextv2_tiny": convnextv2_tiny,
    "unet": unet,
    "vision_transformer": vision_transformer,
    "vit_b_16": vit_b_16,
    "vit_b_32": vit_b_32,
    "vit_base_patch16_224": vit_base_patch16_224,
    "vit_h_14": vit_h_14,
    "vit_l_16": vit_l_16,
    "vit_l_32": vit_l_32,
    "vit_large_patch16_224": vit_large_patch16_224,
    "vit_small_patch16_224": vit_small_patch16_224,
    "vit_tiny_patch16_224": vit_tiny_patch16_224,
    "gpt2": gpt2,
    "gpt2_block": gpt2_block,
    "gpt2_medium": gpt2_medium,
    "bert_base": bert_base,
    "bert_layer": bert_layer,
    "llama": llama,
    "llama_block": llama_block,
    "transformer_block": transformer_block,
    "transformer_layer": transformer_layer,
}


def names() -> list[str]:
    """Return the names that `create` knows."""
    return list(NETWORKS)


def create(name: str, **options: Any) -> Block:
    """Return the network of that name.

    Args:
        name: one of `names()`.
        options: the arguments of the function of that name.

    Raises:
        ArgumentError: an unknown name, or options that the network does not take.

    Example:
        >>> create("simple_block", in_features=2, hidden_features=3, out_features=2).out_shape((5, 2))
        (5, 2)
    """
    if name not in NETWORKS:
        raise ArgumentError(f"network {name!r} is unknown{nearest(str(name), NETWORKS)}: one of {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name](**options)
    except TypeError as error:
        raise ArgumentError(f"network {name!r}: {_explained(str(error))}") from error


def _explained(message: str) -> str:
    """Return Python's message about a call, with the options that the function called does take."""
    found = re.match(r"(\w+)\(\) got (an unexpected keyword|multiple values for) argument '(\w+)'", message)
    if found is None or found[1] not in NETWORKS:
        return message
    general, problem, option = found.groups()
    if problem.startswith("multiple"):
        return f"its {option} is its own, expected none: call {general!r} for another"
    parameters = inspect.signature(NETWORKS[general]).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    return f"option {option!r} is unknown{nearest(option, known)}: expected one of {', '.join(known)}"
