"""Normalisations where a forward derivative is taken: made of elementary operations, which keep symbolic sizes.

PyTorch's own forward derivatives of them compute in C++, or in TorchScript, with sizes as numbers. Everywhere else the
operator stays whole.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor
from torch._C import DispatchKey, _functorch

with warnings.catch_warnings():  # PyTorch makes scripts of these rules when it imports them, and warns of itself
    warnings.simplefilter("ignore", FutureWarning)
    from torch._decomp.decompositions_for_jvp import decomposition_table_for_jvp

aten: Any = torch.ops.aten
Kernel = Callable[..., Any]


def _under_jvp(op: Any, elementary: Kernel) -> Kernel:
    """Make a kernel of ``Autograd``: elementary where a level of ``jvp`` derives it, PyTorch's own elsewhere."""

    @functools.wraps(elementary)
    def kernel(*args: Any) -> Any:
        level = _functorch.peek_interpreter_stack()
        if level is not None and level.key() == _functorch.TransformType.Jvp and any(map(_pushed, args)):
            return elementary(*args)
        return op._op_dk(DispatchKey.Autograd, *args)

    return kernel


def _pushed(arg: Any) -> bool:
    """Whether an argument is a tensor with a tangent."""
    return isinstance(arg, Tensor) and fwAD.unpack_dual(arg).tangent is not None


def _standardised(x: Tensor, axes: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(x − mean) / √(variance + eps), the mean and the inverse root, never below float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    inverse = torch.rsqrt(variance + eps)
    return (wide - mean) * inverse, mean, inverse


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[Any]) -> Tensor:
    if weight is not None:
        x = x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def _layer_norm(
    x: Tensor, shape: Sequence[Any], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, inverse = _standardised(x, list(range(-len(shape), 0)), eps)
    return _affine(y, weight, bias, shape).to(x.dtype), mean, inverse


def _group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: Any, channels: Any, area: Any, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, inverse = _standardised(x.reshape(n, groups, channels // groups * area), [2], eps)
    place = [channels, *[1] * (x.dim() - 2)]
    return _affine(y.reshape(x.shape), weight, bias, place).to(x.dtype), mean.squeeze(2), inverse.squeeze(2)


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    place = [x.shape[1], *[1] * (x.dim() - 2)]
    if training:
        axes = [0, *range(2, x.dim())]
        y, saved_mean, saved_inverse = _standardised(x, axes, eps)
        return _affine(y, weight, bias, place).to(x.dtype), saved_mean.squeeze(axes), saved_inverse.squeeze(axes)
    if mean is None or variance is None:
        raise RuntimeError("batch normalisation in evaluation needs running statistics")
    none = x.new_zeros(0)
    if _pushed(mean) or _pushed(variance):
        y = (x.to(mean.dtype) - mean.reshape(place)) * torch.rsqrt(variance + eps).reshape(place)
        return _affine(y, weight, bias, place).to(x.dtype), none, none
    return _evaluated(x, weight, bias, mean, variance, eps), none, none


def _evaluated(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> Tensor:
    """Normalise by constants: one operator, whose tangent is the same by the tangents of its scale and shift.

    y = w·(x − m)/√(v + eps) + b, so y' = w/√(v + eps)·x' + (w'·(x − m)/√(v + eps) + b').
    """
    x, dx = fwAD.unpack_dual(x)
    (w, dw), (b, db) = (fwAD.unpack_dual(given) if given is not None else (None, None) for given in (weight, bias))
    norm = functools.partial(torch.batch_norm, training=False, momentum=0.0, eps=eps, cudnn_enabled=False)
    y = norm(x, w, b, mean, variance)
    terms = []
    if dx is not None:
        scale = torch.rsqrt(variance + eps)
        scale = (scale if w is None else scale * w).reshape([x.shape[1], *[1] * (x.dim() - 2)])
        terms.append((dx * scale).to(y.dtype))
    if dw is not None or db is not None:
        terms.append(norm(x, torch.zeros_like(variance) if dw is None else dw, db, mean, variance))
    return fwAD.make_dual(y, sum(terms[1:], terms[0])) if terms else y


def _batch_norm_evaluation(
    x: Tensor, weight: Any, bias: Any, mean: Tensor, variance: Tensor, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _batch_norm(x, weight, bias, mean, variance, False, momentum, eps)


def _batch_norm_training(
    x: Tensor, weight: Any, bias: Any, training: bool, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _batch_norm(x, weight, bias, None, None, training, momentum, eps)


_ELEMENTARY: dict[Any, Kernel] = {
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten.native_batch_norm.default: _batch_norm,
    aten._native_batch_norm_legit.default: _batch_norm,
    aten._native_batch_norm_legit.no_stats: _batch_norm_training,
    aten._native_batch_norm_legit_no_training.default: _batch_norm_evaluation,
    aten.native_layer_norm_backward.default: decomposition_table_for_jvp[aten.native_layer_norm_backward.default],
    aten.native_batch_norm_backward.default: decomposition_table_for_jvp[aten.native_batch_norm_backward.default],
}

RULES: dict[tuple[Any, DispatchKey], Kernel] = {
    (op, DispatchKey.Autograd): _under_jvp(op, elementary) for op, elementary in _ELEMENTARY.items()
}
"""{(operator, dispatch key): kernel}."""
