"""Batch statistics of one sample, whose gradients PyTorch's CPU kernels get wrong where they arrive transposed.

The output of a normalisation that is read as tokens, `y.flatten(2).transpose(1, 2)`, gets a gradient whose strides are,
for a batch of one, those of both memory formats. The kernels then take it for the other one than the input, and all
gradients are wrong, without a message (torch 2.15.0, float32 and float64). Without axes of space there is one format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["batch_norm", "with_flat_space"]


def with_flat_space(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a normalisation that takes a single sample's (1, channels, *space) as (1, channels, positions).

    Args:
        norm: `torch.batch_norm`, `torch.instance_norm` or the functions of `torch.nn.functional` around them.
    """

    def normalised(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x.ndim < 4 or not isinstance(x.shape[0], int) or x.shape[0] != 1 or _is_recorded():
            return norm(x, *args, **kwargs)
        return norm(x.flatten(2), *args, **kwargs).reshape(x.shape)

    return normalised


def _is_recorded() -> bool:
    """Tell whether operations are being recorded as a graph of `export`, which has its own rule for the gradient.

    `torch.compile` cannot trace the question; in what it compiles the gradient may be PyTorch's kernel.
    """
    if torch.compiler.is_dynamo_compiling():
        return False
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


batch_norm = with_flat_space(F.batch_norm)
