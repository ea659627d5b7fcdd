"""Loss functions that PyTorch computes with sizes as numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch.nn import _reduction as _Reduction

__all__ = ["COMPOSITES"]

aten: Any = torch.ops.aten


def _cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: int = _Reduction.get_enum("mean"),
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Compute cross entropy; PyTorch 2.11 compares the shape of target probabilities with x's as numbers."""
    if not target.is_floating_point() or target.shape != x.shape or ignore_index >= 0:
        op = aten.cross_entropy_loss.default
        return op._op_dk(
            DispatchKey.CompositeImplicitAutograd, x, target, weight, reduction, ignore_index, label_smoothing
        )
    axis = min(x.dim() - 1, 1)
    classes = x.shape[axis]
    if label_smoothing > 0:
        target = target * (1 - label_smoothing) + label_smoothing / classes
    losses = torch.log_softmax(x, axis, x.dtype) * target
    if weight is not None:
        losses = losses * weight.reshape(-1, *[1] * (x.dim() - 1 - axis))
    result = -losses.sum(axis)
    if reduction == _Reduction.get_enum("none"):
        return result
    return result.mean() if reduction == _Reduction.get_enum("mean") else result.sum()


COMPOSITES: dict[Any, Callable[..., Any]] = {aten.cross_entropy_loss.default: _cross_entropy}
