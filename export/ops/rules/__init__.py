"""Operators reduced to simpler ones by rules that PyTorch does not have: ``overload → function of tensors``.

Each family is a file with a literal table; ``RULES`` is their union. A rule may return ``NotImplemented``, and the
operator then stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from export.ops.rules import arithmetic, cosine_windows, order, pools, positions, products

RULES: dict[Any, Callable[..., Any]] = {
    **arithmetic.RULES,
    **cosine_windows.RULES,
    **order.RULES,
    **pools.RULES,
    **positions.RULES,
    **products.RULES,
}
"""All of these rules."""

__all__ = ["RULES"]
