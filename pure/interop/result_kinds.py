"""Dataclasses and key-value caches that modules return, made known to PyTorch's transforms as pytrees."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import torch
from torch import Tensor

from pure.tree import pytree

__all__ = ["register_kinds"]

_SEEN: set[type] = {Tensor, int, float, bool, str, type(None)}


def register_kinds(result: Any) -> None:
    """Register the dataclasses, and the caches of transformers, in a result that are not registered yet.

    `torch.func`'s transforms refuse results of other classes. As `torch.export` has it, a class is registered for the
    whole process.
    """
    if type(result) in _SEEN or torch.compiler.is_dynamo_compiling():
        return
    for leaf in pytree.leaves(result):
        kind = type(leaf)
        if kind in _SEEN:
            continue
        _SEEN.add(kind)
        if dataclasses.is_dataclass(leaf):
            pytree.register_dataclass(kind)
        elif kind.__module__.startswith("transformers.") and kind.__name__.endswith("Cache"):
            _register_cache(kind)
        register_kinds(result)  # what it holds
        return


def _register_cache(kind: type) -> None:
    if kind.__name__ == "EncoderDecoderCache":
        pytree.register_node(
            kind,
            lambda cache: [cache.self_attention_cache, cache.cross_attention_cache],
            lambda parts: kind(*parts) if all(hasattr(part, "layers") for part in parts) else parts,
        )
    elif kind.__name__ == "DynamicCache":
        library: Any = importlib.import_module("transformers.integrations.executorch")
        library.register_dynamic_cache_export_support()
        pytree.allow_any_leaf(kind)
