"""The derivative of PyTorch's fused attention; its forward pass is made of products and a softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["DECOMPOSITIONS"]

aten: Any = torch.ops.aten


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
    """Return the gradients of softmax(scale·q kᵀ + mask) v w.r.t. q, k and v; the weights are recomputed."""
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
    d_weights = grad @ value.mT
    d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdim=True)) * factor
    return d_scores @ key, d_scores.mT @ query, weights.mT @ grad


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _attention_backward,
}
