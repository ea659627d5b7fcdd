"""Operators that other libraries register with PyTorch and that compute what one of PyTorch's own does.

They choose them where `torch.compiler.is_compiling()` is true. Their derivatives are opaque to the transforms of
torch.func; those of PyTorch's operators are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["library_operators"]


def _grouped_mm(input: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    """Multiply (rows, in) by (groups, in, out), group by group; of transformers, for dtypes other than bfloat16."""
    return torch._grouped_mm(input, weight, offs=offs)


_SAME = {("transformers", "grouped_mm_fallback"): _grouped_mm}


def library_operators() -> dict[Any, Callable[..., Any]]:
    """Return {operator: the same by PyTorch's own} for those that are registered by now."""
    return {
        getattr(getattr(torch.ops, library), name).default: same
        for (library, name), same in _SAME.items()
        if hasattr(getattr(torch.ops, library), name)
    }
