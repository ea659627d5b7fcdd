"""The derivative of PyTorch's fused attention; its forward pass is made of products and a softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._decomp import decomposition_table

from export.ops.shared.kernels import Kernel, fold, mapped_kernel, mapped_size, unfold, with_mapped_axis

__all__ = ["BATCHING", "DECOMPOSITIONS"]

aten: Any = torch.ops.aten


def _scores(
    query: torch.Tensor, key: torch.Tensor, scale: float | None, is_causal: bool, attn_mask: torch.Tensor | None
) -> torch.Tensor:
    """Return scale·q kᵀ + mask."""
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query @ key.mT * factor
    if is_causal:
        rows, columns = (torch.arange(x.shape[-2], device=query.device) for x in (query, key))
        return torch.where(columns <= rows.unsqueeze(1), scores, torch.full_like(scores, -math.inf))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        return torch.where(attn_mask, scores, torch.full_like(scores, -math.inf))
    return scores if attn_mask is None else scores + attn_mask


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> Any:
    """Return attention, and each row's log-sum-exp."""
    if dropout_p:
        return decomposition_table[_FORWARD](query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)
    scores = _scores(query, key, scale, is_causal, attn_mask)
    return _weights(scores, attn_mask) @ value, torch.logsumexp(scores, -1)


def _weights(scores: torch.Tensor, attn_mask: torch.Tensor | None) -> torch.Tensor:
    """Return each row's softmax; zeros where a mask leaves nothing of the row. A causal row has its first key."""
    return torch.softmax(scores, -1) if attn_mask is None else aten._safe_softmax(scores, -1)


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
    weights = _weights(_scores(query, key, scale, is_causal, attn_mask), attn_mask)
    d_weights = grad @ value.mT
    d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdim=True)) * factor
    return d_scores @ key, d_scores.mT @ query, weights.mT @ grad


def _folded(op: Any, tensors: int) -> Kernel:
    """Make a kernel of `vmap` of fused attention: the mapped axis and the batch of its first tensors become one."""

    def whole(*args: Any) -> Any:
        *given, mask, scale = args
        return op(*given, attn_mask=mask, scale=scale)

    def rule(mapped: Sequence[bool], *args: Any) -> Any:
        size, batch = mapped_size(mapped, args), args[0].shape[int(mapped[0])]
        *given, mask, scale = args
        folded = [fold(with_mapped_axis(x, known, size)) for x, known in zip(given[:tensors], mapped, strict=False)]
        if mask is not None and (mapped[-2] or mask.dim() == 4):
            mask = with_mapped_axis(mask, mapped[-2], size)
            mask = mask.reshape(size, 1, 1, *mask.shape[1:]) if mask.dim() == 3 else mask
            mask = fold(mask.expand(size, batch, *mask.shape[2:]))
        return tuple(unfold(x, size, batch) for x in whole(*folded, *given[tensors:], mask, scale))

    kernel = mapped_kernel(whole, rule)

    def with_settings(*args: Any, attn_mask: torch.Tensor | None = None, scale: float | None = None) -> Any:
        return kernel(*args, attn_mask, scale)

    return with_settings


_FORWARD = aten._scaled_dot_product_flash_attention_for_cpu.default
_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward.default

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {_FORWARD: _attention, _BACKWARD: _attention_backward}

BATCHING: dict[Any, Callable[..., Any]] = {_FORWARD: _folded(_FORWARD, 3), _BACKWARD: _folded(_BACKWARD, 6)}
