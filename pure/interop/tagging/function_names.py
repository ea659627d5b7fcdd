"""What the functions of PyTorch that a module calls do, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["ACTIVATIONS", "CATS", "CONTRACTIONS", "DETACHING", "EMBEDDINGS", "SUMS", "in_place"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SUMS = _names(
    """
    __add__ __iadd__ __radd__ add add_
    """
)
"""Sums of two tensors."""

CATS = _names(
    """
    cat concat concatenate
    """
)
"""Concatenations."""

EMBEDDINGS = _names(
    """
    embedding embedding_bag
    """
)
"""Functions that give floating-point numbers for indices."""

DETACHING = _names(
    """
    detach detach_
    """
)
"""Functions that no gradient passes."""

ACTIVATIONS = _names(
    """
    celu clamp clamp_ clamp_min elu elu_ exp gelu hardsigmoid hardswish hardtanh hardtanh_ leaky_relu
    leaky_relu_ log_softmax logsigmoid mish prelu relu relu6 relu_ selu sigmoid sigmoid_ silu silu_ softmax
    softplus softsign tanh tanh_ threshold
    """
)
"""Functions of single values, or nearly, without parameters of their own."""

CONTRACTIONS = _names(
    """
    __matmul__ addmm baddbmm bilinear bmm conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d einsum linear matmul mm multi_head_attention_forward scaled_dot_product_attention
    """
)
"""Linear maps and convolutions; attention too."""

_IN_PLACE_OPERATORS = _names(
    """
    __iadd__ __iand__ __ifloordiv__ __ilshift__ __imatmul__ __imod__ __imul__ __ior__ __ipow__ __irshift__
    __isub__ __itruediv__ __ixor__ __setitem__
    """
)
"""Operators that write to their first operand."""

_WITH_FLAG = _names(
    """
    hardsigmoid hardswish mish relu relu6 selu silu
    """
)
"""Functions whose second argument may be `inplace`."""


def in_place(name: str, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> bool:
    """Return whether a function of this name writes to its first argument."""
    if name.startswith("__"):
        return name in _IN_PLACE_OPERATORS
    if kwargs and kwargs.get("inplace") is True:
        return True
    return name.endswith("_") or (name in _WITH_FLAG and args[1:] == (True,))
