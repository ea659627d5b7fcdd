"""Operators that PyTorch makes of others, by rules that keep symbolic sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch.nn import _reduction as _Reduction

aten: Any = torch.ops.aten


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``aten.linear``: one product of matrices, the axes in front as rows."""
    turned = weight.t()
    if x.dim() < 2:
        result = torch.matmul(x, turned)
        return result if bias is None else result + bias
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    result = torch.mm(rows, turned) if bias is None else torch.addmm(bias, rows, turned)
    return result if x.dim() == 2 else result.reshape(*x.shape[:-1], weight.shape[0])


def _index_select_backward(grad: Tensor, sizes: Sequence[Any], dim: int, index: Tensor) -> Tensor:
    """The gradient of ``index_select``. PyTorch 2.11 stops at symbolic sizes with an error of its own."""
    return grad.new_zeros(sizes).index_add(dim, index, grad)


def _cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: int = _Reduction.get_enum("mean"),
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """``aten.cross_entropy_loss`` of probabilities; PyTorch 2.11 compares their shape with x's as numbers."""
    if not target.is_floating_point() or target.shape != x.shape or ignore_index >= 0:
        op = aten.cross_entropy_loss.default
        return op._op_dk(_IMPLICIT, x, target, weight, reduction, ignore_index, label_smoothing)
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


_IMPLICIT = DispatchKey.CompositeImplicitAutograd

_KERNELS: dict[Any, Callable[..., Tensor]] = {
    aten.linear.default: _linear,
    aten.index_select_backward.default: _index_select_backward,
    aten.cross_entropy_loss.default: _cross_entropy,
}

RULES: dict[tuple[Any, DispatchKey], Any] = {
    (op, key): kernel
    for op, kernel in _KERNELS.items()
    for key in (_IMPLICIT, DispatchKey.FuncTorchDynamicLayerFrontMode)
}
"""{(operator, dispatch key): kernel}."""
