"""Loss functions that PyTorch computes with sizes as numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch.nn import _reduction as _Reduction

from export.ops.shared.kernels import pytorch_rules

__all__ = ["BATCHING", "COMPOSITES", "FORWARD_MODE"]

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
    return _reduced(result, reduction)


def _reduced(losses: Tensor, reduction: int) -> Tensor:
    if reduction == _Reduction.get_enum("none"):
        return losses
    return losses.mean() if reduction == _Reduction.get_enum("mean") else losses.sum()


def _kl_div(x: Tensor, target: Tensor, reduction: int = 1, *, log_target: bool = False) -> Tensor:
    """Compute the pointwise Kullback–Leibler divergence of log-probabilities x from a target."""
    losses = target.exp() * (target - x) if log_target else torch.xlogy(target, target) - target * x
    return _reduced(losses, reduction)


def _triplet_margin(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: int = 1,
) -> Tensor:
    """Compute how much closer than `margin` the negatives are."""
    near = torch.pairwise_distance(anchor, positive, p, eps)
    far = torch.pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = torch.minimum(far, torch.pairwise_distance(positive, negative, p, eps))
    return _reduced((margin + near - far).clamp_min(0), reduction)


def _margin_ranking(x: Tensor, y: Tensor, target: Tensor, margin: float = 0.0, reduction: int = 1) -> Tensor:
    """Compute how far pairs are from the order that the target's signs ask for, plus `margin`."""
    return _reduced((margin - target * (x - y)).clamp_min(0), reduction)


COMPOSITES: dict[Any, Callable[..., Any]] = {
    aten.cross_entropy_loss.default: _cross_entropy,
    aten.kl_div.default: _kl_div,
    aten.triplet_margin_loss.default: _triplet_margin,
    aten.margin_ranking_loss.default: _margin_ranking,
}

BATCHING: dict[Any, Callable[..., Any]] = pytorch_rules(
    aten.nll_loss_forward.default,
    aten.nll_loss_backward.default,
    aten.nll_loss2d_forward.default,
    aten.nll_loss2d_backward.default,
    aten.binary_cross_entropy.default,
    aten.binary_cross_entropy_backward.default,
)
"""PyTorch's decompositions; `vmap` then maps their simpler operators one by one."""

FORWARD_MODE: dict[Any, Callable[..., Any]] = pytorch_rules(
    aten.nll_loss_backward.default, aten.nll_loss2d_backward.default
)
