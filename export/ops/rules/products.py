"""Products and distances, and the derivative of PyTorch's fused attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

aten: Any = torch.ops.aten


def _addbmm(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1) -> torch.Tensor:
    """beta·bias + alpha·Σ a@b over the batch."""
    total = alpha * torch.bmm(a, b).sum(0)
    return total if beta == 0 else beta * bias + total


def _attention_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    logsumexp: torch.Tensor,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> Any:
    """Derivatives of softmax(scale·q kᵀ + mask) v; the weights are computed again."""
    if dropout_p:
        return NotImplemented
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query @ key.mT * factor
    if is_causal:
        rows, columns = (torch.arange(x.shape[-2], device=query.device) for x in (query, key))
        scores = torch.where(columns <= rows.unsqueeze(1), scores, torch.full_like(scores, -math.inf))
    elif attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = torch.where(attn_mask, scores, torch.full_like(scores, -math.inf))
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = aten._safe_softmax(scores, -1)
    by_weights = grad @ value.mT
    by_scores = weights * (by_weights - (by_weights * weights).sum(-1, keepdim=True)) * factor
    return by_scores @ key, by_scores.mT @ query, weights.mT @ grad


def _cdist_backward(
    grad: torch.Tensor, a: torch.Tensor, b: torch.Tensor, p: float, distance: torch.Tensor
) -> torch.Tensor:
    """The derivative of the distances of all pairs by the first points; nothing between equal ones."""
    gap = a.unsqueeze(-2) - b.unsqueeze(-3)
    if p == math.inf:
        return NotImplemented
    if p == 1:
        share = gap.sign()
    elif p == 0:
        share = torch.zeros_like(gap)
    else:
        far = distance.unsqueeze(-1)
        safe = torch.where(far > 0, far, torch.ones_like(far))
        size = gap.abs()
        length = gap if p == 2 else gap.sign() * torch.where(size > 0, size, torch.ones_like(size)) ** (p - 1)
        share = torch.where(far > 0, length / safe ** (p - 1), torch.zeros_like(gap))
    return (grad.unsqueeze(-1) * share).sum(-2)


RULES: dict[Any, Callable[..., Any]] = {
    aten.addbmm.default: _addbmm,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _attention_backward,
    aten._cdist_backward.default: _cdist_backward,
}
"""Products."""
