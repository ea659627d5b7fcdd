"""Whole networks: `create(name, **options)` or the function of that name.

Each file of a family lists its networks in `__all__`; the imports below offer them here, in the order of `names()`.
"""
# ruff: noqa: F403

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from pure.block import Block
from pure.errors import ArgumentError, nearest
from pure.nets import configs, named

# isort: off
from pure.nets.small.tutorial import *
from pure.nets.small.digit_classifiers import *
from pure.nets.convolutional.resnet import *
from pure.nets.convolutional.resnetv2 import *
from pure.nets.convolutional.nf_resnet import *
from pure.nets.convolutional.cifar import *
from pure.nets.convolutional.fixup import *
from pure.nets.convolutional.densenet import *
from pure.nets.convolutional.mobilenet import *
from pure.nets.convolutional.convnext import *
from pure.nets.convolutional.unet import *
from pure.nets.transformers.vit import *
from pure.nets.transformers.mixer import *
from pure.nets.transformers.gpt2 import *
from pure.nets.transformers.bert import *
from pure.nets.transformers.llama import *
from pure.nets.transformers.gemma import *
from pure.nets.transformers.parts import transformer_block as transformer_block
from pure.nets.transformers.layer import transformer_layer as transformer_layer
# isort: on

NETWORKS: Final[dict[str, Callable[..., Block]]] = {
    name: value for name, value in globals().items() if getattr(value, "__module__", "").startswith(f"{__name__}.")
}
"""Name → function that makes the network: every function imported above from the files of families."""

if not TYPE_CHECKING:  # mypy reads literal lists alone, and without one takes what a star brings as public
    __all__ = ["create", "from_config", "names", *NETWORKS]


def names() -> list[str]:
    """Return the names that `create` knows."""
    return list(NETWORKS)


def create(name: str, **options: Any) -> Block:
    """Return the network of that name.

    Args:
        name: one of `names()`, or the name of any member of a family that timm names by a pattern, such as
            "resnet34d", "seresnet101", "vit_base_patch14_reg4_dinov2" (`pure.nets.named`).
        options: arguments of the function of that name.

    Raises:
        ArgumentError: an unknown name, or options that the network does not take.

    Example:
        >>> create("simple_block", in_features=2, hidden_features=3, out_features=2).out_shape((5, 2))
        (5, 2)
        >>> create("resnet34d", num_classes=7).out_shape((1, 3, 64, 64))
        (1, 7)
    """
    found = (NETWORKS[name], {}) if name in NETWORKS else named.named(str(name))
    if found is None:
        raise ArgumentError(
            f"network {name!r} is unknown{nearest(str(name), NETWORKS)}: one of {', '.join(NETWORKS)}, or a name of "
            f"timm's of the form {named.FAMILIES}. Any other nn.Module: pure.interop.from_module(module)"
        )
    function, own = found
    return _made(name, function, {**own, **options})


def _made(name: str, function: Callable[..., Block], options: Mapping[str, Any]) -> Block:
    try:
        return function(**options)
    except TypeError as error:
        raise ArgumentError(f"network {name!r}: {_explained(str(error))}") from error


def from_config(config: str | os.PathLike[str] | Mapping[str, Any], **options: Any) -> Block:
    """Return the network of a `config.json` of timm or transformers, ready for `interop.from_state_dict`.

    Args:
        config: a mapping, the path of a `config.json`, or its folder. timm: every architecture that `create` reads;
            transformers: GPT-2, BERT, RoBERTa, Llama, Mistral, Qwen 2 and 3, Gemma 2.
        options: arguments of the network's function that replace the config's.

    Raises:
        ArgumentError: another kind of network, with the way to `interop.from_module`.
        SaveError: a file that is not there or holds no JSON mapping.

    Example:
        >>> from_config({"architecture": "resnet34d", "num_classes": 7}).out_shape((1, 3, 64, 64))
        (1, 7)
    """
    function, own = configs.options_of_config(config)
    return _made(function.__name__, function, {**own, **options})


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
