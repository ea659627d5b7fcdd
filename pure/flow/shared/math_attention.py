"""Attention in the one form that PyTorch differentiates forwards, and twice."""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["composed_attention"]


def composed_attention() -> AbstractContextManager[None]:
    """Return a context in which `scaled_dot_product_attention` is made of matrix products and a softmax."""
    kernel: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return kernel
