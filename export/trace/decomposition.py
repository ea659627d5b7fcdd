"""Which operators are reduced to simpler ones while tracing, and by which rules."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch._decomp import core_aten_decompositions

from export.ops.registry import DECOMPOSITIONS

__all__ = ["decompositions", "without_views"]


@functools.lru_cache(maxsize=8)
def decompositions(whole: frozenset[Any]) -> dict[Any, Callable[..., Any]]:
    """Return the rules to trace with: PyTorch's and the registry's.

    Args:
        whole: operators to leave whole, because they have an ONNX form.
    """
    rules = {**core_aten_decompositions(), **DECOMPOSITIONS}
    return {op: rule for op, rule in rules.items() if op not in whole}


def without_views(rules: dict[Any, Callable[..., Any]]) -> dict[Any, Callable[..., Any]]:
    """Leave out operators whose result shares memory with an argument: a copy in its place would lose later writes."""
    return {op: rule for op, rule in rules.items() if not _is_view(op)}


def _is_view(op: Any) -> bool:
    schema = getattr(op, "_schema", None)
    return schema is not None and any(result.alias_info is not None for result in schema.returns)
