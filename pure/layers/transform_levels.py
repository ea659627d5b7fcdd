"""Which derivatives are being computed of a block that runs: PyTorch's rules do not hold for all nestings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import forward_ad

__all__ = ["differentiating", "is_forward", "is_forward_over_forward", "is_nested"]

_DIFFERENTIATING = (TransformType.Grad, TransformType.Jvp)


def differentiating() -> list[TransformType]:
    """Return the active transforms of `torch.func` that differentiate, outermost first."""
    if torch._C._functorch.peek_interpreter_stack() is None:
        return []
    return [kind for level in retrieve_all_functorch_interpreters() if (kind := level.key()) in _DIFFERENTIATING]


def _several() -> bool:
    return len(differentiating()) > 1


_several_in_dynamo: Callable[[], bool] = torch.compiler.assume_constant_result(_several)
"""TorchDynamo enters the transforms' levels while it traces, but cannot list them."""


def _in_plain_autograd(leaf: Tensor | None) -> bool:
    """Return whether plain autograd, outside of all transforms, follows a tensor."""
    while leaf is not None and torch._C._functorch.is_functorch_wrapped_tensor(leaf):
        leaf = torch._C._functorch.get_unwrapped(leaf)
    return leaf is not None and leaf.requires_grad


def is_nested(*given: Tensor | None) -> bool:
    """Return whether a second or higher derivative is computed; of plain autograd only one is seen, outermost.

    Args:
        given: the tensors that are computed from, of which plain autograd may follow some.
    """
    if torch.compiler.is_dynamo_compiling():
        return _several_in_dynamo()
    kinds = differentiating()
    if not kinds and forward_ad._current_level < 0:
        return False
    if forward_ad._current_level >= 0 and TransformType.Jvp not in kinds:  # a dual level outside of torch.func
        kinds = [TransformType.Jvp, *kinds]
    return len(kinds) > 1 or any(map(_in_plain_autograd, given))


def _forward() -> bool:
    return forward_ad._current_level >= 0 or TransformType.Jvp in differentiating()


_forward_in_dynamo: Callable[[], bool] = torch.compiler.assume_constant_result(_forward)


def is_forward() -> bool:
    """Return whether a forward-mode derivative is computed."""
    return _forward_in_dynamo() if torch.compiler.is_dynamo_compiling() else _forward()


def is_forward_over_forward() -> bool:
    """Return whether a forward-mode derivative of another is computed, for which a custom function's `jvp` is wrong."""
    return differentiating().count(TransformType.Jvp) > 1
