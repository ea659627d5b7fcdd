"""Loss functions that PyTorch computes with sizes as numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch.nn import _reduction as _Reduction

from export.ops.shared.kernels import pytorch_rules

__all__ = ["BATCHING", "COMPOSITES", "FORWARD_MODE", "FUNCTIONS"]

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


def _gaussian_nll(
    x: Tensor, target: Tensor, var: Tensor | float, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """Compute `torch.nn.functional.gaussian_nll_loss` without its check that no variance is negative.

    A graph cannot look at values; the smallest variance is `eps`, with a gradient as if it were not cut off.
    """
    var = torch.as_tensor(var, dtype=x.dtype, device=x.device)
    if var.dim() == x.dim() - 1 and var.shape == x.shape[:-1]:
        var = var.unsqueeze(-1)
    cut = var + (var.detach().clamp(min=eps) - var.detach())
    losses = 0.5 * (cut.log() + (x - target) ** 2 / cut)
    if full:
        losses = losses + 0.5 * math.log(2 * math.pi)
    return _reduced(losses, _Reduction.get_enum(reduction))


FUNCTIONS: dict[str, Any] = {"gaussian_nll_loss": _gaussian_nll}
"""Functions of `torch.nn.functional` that look at values, by name, without that."""


def _unless_reduced(op: Any, elementary: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a composite of a loss that is not reduced; PyTorch maps the reduced one with any sizes."""

    def rule(x: Tensor, target: Tensor, reduction: int = 1, *settings: float) -> Tensor:
        if reduction != _Reduction.get_enum("none"):
            result: Tensor = op._op_dk(DispatchKey.FuncTorchDynamicLayerFrontMode, x, target, reduction, *settings)
            return result
        return elementary(x, target, *settings)

    return rule


def _square(x: Tensor, target: Tensor) -> Tensor:
    return (x - target) ** 2


def _huber(x: Tensor, target: Tensor, delta: float = 1.0) -> Tensor:
    gap = (x - target).abs()
    return torch.where(gap < delta, 0.5 * gap * gap, delta * (gap - 0.5 * delta))


def _soft_margin(x: Tensor, target: Tensor, reduction: int = 1) -> Tensor:
    """log(1 + exp(−t·x)), in the form that does not overflow."""
    margin = -target * x
    return _reduced(margin.clamp_min(0) + torch.log1p(torch.exp(-margin.abs())), reduction)


def _multi_margin(
    x: Tensor, target: Tensor, p: float = 1, margin: float = 1, weight: Tensor | None = None, reduction: int = 1
) -> Tensor:
    """Compute the mean over the other classes of how much less than `margin` they lie below the right one, to p."""
    rows = x if x.dim() == 2 else x.unsqueeze(0)
    right = target.reshape(-1, 1)
    below = (margin - rows.gather(1, right) + rows).clamp_min(0)
    losses = below if p == 1 else below * below
    if weight is not None:
        losses = losses * weight[right]
    others = torch.arange(rows.shape[1], device=x.device) != right
    total = torch.where(others, losses, torch.zeros_like(losses)).sum(1) / rows.shape[1]
    return _reduced(total if x.dim() == 2 else total.squeeze(0), reduction)


def _multilabel_margin(x: Tensor, target: Tensor, reduction: int = 1) -> Tensor:
    """Compute the same of several right classes, listed in front of the first −1."""
    rows, labels = (v if v.dim() == 2 else v.unsqueeze(0) for v in (x, target))
    listed = (labels < 0).to(torch.int64).cumsum(1) == 0
    index = torch.where(listed, labels, torch.zeros_like(labels))
    classes = torch.arange(rows.shape[1], device=x.device)
    is_right = ((index.unsqueeze(2) == classes) & listed.unsqueeze(2)).any(1)
    below = (1 - rows.gather(1, index).unsqueeze(2) + rows.unsqueeze(1)).clamp_min(0)
    counted = listed.unsqueeze(2) & ~is_right.unsqueeze(1)
    total = torch.where(counted, below, torch.zeros_like(below)).sum((1, 2)) / rows.shape[1]
    return _reduced(total if x.dim() == 2 else total.squeeze(0), reduction)


COMPOSITES: dict[Any, Callable[..., Any]] = {
    aten.mse_loss.default: _unless_reduced(aten.mse_loss.default, _square),
    aten.huber_loss.default: _unless_reduced(aten.huber_loss.default, _huber),
    aten.soft_margin_loss.default: _soft_margin,
    aten.multi_margin_loss.default: _multi_margin,
    aten.multilabel_margin_loss.default: _multilabel_margin,
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
