"""Batch normalisation, in training and in evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor
from torch._C import DispatchKey
from torch._decomp import decomposition_table
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Node

from export.graph.builder import Builder, Lowering, node_dtype
from export.graph.onnx_types import accumulation_dtype
from export.ops.normalisation import affine, inverse_deviation, scale_and_shift, standardised
from export.ops.reduction import moments
from export.ops.shared.eager_derivatives import note_norm
from export.ops.shared.kernels import (
    JVP_DECOMPOSITIONS,
    Kernel,
    fake_like,
    fold,
    has_tangent,
    mapped_axis,
    mapped_kernel,
    pytorch_rules,
    unfold,
    with_mapped_axis,
)
from pure.layers.alignment import widen
from pure.layers.norm_kernels import composed_norm
from pure.layers.transform_levels import is_nested

__all__ = ["BATCHING", "COMPOSITES", "DECOMPOSITIONS", "FAKES", "FORWARD_MODE", "LOWERINGS"]

aten: Any = torch.ops.aten


def _per_channel(g: Builder, value: ir.Value, rank: int) -> ir.Value:
    return g.unsqueeze(value, *range(1, rank - 1))


def _evaluation(
    g: Builder, node: Node, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, eps: float
) -> ir.Value:
    """Normalise by the running statistics."""
    dtype = node_dtype(node)
    rank = len(g.shape_of(x))
    inner = accumulation_dtype(dtype)
    if dtype == torch.float32:
        channels = g.static(g.shape_of(x)[1])
        if channels is None:
            raise g.unsupported("the number of channels must not be dynamic")
        scale = g.tensor(weight) if weight is not None else g.tensor_constant(torch.ones(channels, dtype=dtype))
        shift = g.tensor(bias) if bias is not None else g.tensor_constant(torch.zeros(channels, dtype=dtype))
        inputs = [g.tensor(x), scale, shift, g.tensor(mean, inner), g.tensor(variance, inner)]
        return g.op("BatchNormalization", *inputs, epsilon=float(eps))
    inverse = inverse_deviation(g, g.tensor(variance, inner), eps)
    factor = inverse if weight is None else g.op("Mul", inverse, g.tensor(weight, inner))
    centred = g.op("Sub", g.tensor(x, inner), _per_channel(g, g.tensor(mean, inner), rank))
    result = g.op("Mul", centred, _per_channel(g, factor, rank))
    return g.cast(scale_and_shift(g, result, None, bias, inner, range(1, rank - 1)), dtype)


def _training(
    g: Builder, node: Node, x: Any, weight: Any, bias: Any, eps: float
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Normalise by the batch's statistics; return its mean and 1/√(variance + eps) too."""
    dtype = node_dtype(node)
    rank = len(g.shape_of(x))
    inner = accumulation_dtype(dtype)
    axes = [0, *range(2, rank)]
    mean, centred, variance = moments(g, g.tensor(x, inner), g.shape_of(x), axes)
    inverse = inverse_deviation(g, variance, eps)
    result = scale_and_shift(g, g.op("Mul", centred, inverse), weight, bias, inner, range(1, rank - 1))
    kept = node.meta["val"][1].dtype
    where = g.constant(axes)
    return (
        g.cast(result, dtype),
        g.cast(g.op("Squeeze", mean, where), kept),
        g.cast(g.op("Squeeze", inverse, where), kept),
    )


def native_batch_norm(
    g: Builder,
    node: Node,
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[ir.Value | None, ...]:
    """Lower evaluation with running statistics, or training."""
    if not training:
        return _evaluation(g, node, x, weight, bias, mean, variance, eps), None, None
    return _training(g, node, x, weight, bias, eps)


def no_training(
    g: Builder, node: Node, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float, eps: float
) -> tuple[ir.Value | None, ...]:
    """Lower evaluation."""
    return _evaluation(g, node, x, weight, bias, mean, variance, eps), None, None


def no_statistics(
    g: Builder, node: Node, x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float
) -> tuple[ir.Value | None, ...]:
    """Lower training without running statistics."""
    return _training(g, node, x, weight, bias, eps)


def _unbiased_moments(x: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return each channel's mean and unbiased variance, as the running statistics take them."""
    variance, mean = torch.var_mean(x.to(torch.promote_types(x.dtype, like.dtype)), [0, *range(2, x.dim())])
    return mean.to(like.dtype), variance.to(like.dtype)


def _update_running(mean: Tensor | None, variance: Tensor | None, x: Tensor, momentum: float) -> None:
    """Write the new running statistics into the old, if there are any."""
    if mean is None or variance is None:
        return
    for running, new in zip((mean, variance), _unbiased_moments(x, mean), strict=True):
        running.mul_(1 - momentum).add_(new, alpha=momentum)


def _functional(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Normalise, and return the new running statistics in place of writing them."""
    if not training:
        y, *kept = aten._native_batch_norm_legit_no_training.default(x, weight, bias, mean, variance, momentum, eps)
        return y, kept[0], kept[1], mean.clone(), variance.clone()
    y, *kept = aten._native_batch_norm_legit.no_stats(x, weight, bias, True, momentum, eps)
    new_mean, new_variance = _unbiased_moments(x, mean)
    new_mean = momentum * new_mean + (1 - momentum) * mean
    return y, kept[0], kept[1], new_mean, momentum * new_variance + (1 - momentum) * variance


def _batched(op: Any) -> Kernel:
    """Make a kernel of `vmap`: evaluation joins the mapped axis to the batch, the rest is decomposed."""
    elementary = decomposition_table[op]

    def rule(mapped: Sequence[bool], x: Tensor, *rest: Any) -> Any:
        size, n = x.shape[:2]
        y, *kept = op(fold(x), *rest)
        return unfold(y, size, n), *(with_mapped_axis(value, False, size) for value in kept)

    kernel = mapped_kernel(op, rule)
    flag = next((i for i, argument in enumerate(op._schema.arguments) if argument.name == "training"), None)

    def choose(x: Tensor, *rest: Any) -> Any:
        alone = all(mapped_axis(arg) is None for arg in rest)
        evaluation = flag is None or not rest[flag - 1]
        return (kernel if alone and evaluation else elementary)(x, *rest)

    return choose


def _elementary(
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
        y, saved_mean, saved_inverse = standardised(x, axes, eps)
        _update_running(mean, variance, fwAD.unpack_dual(x)[0], momentum)  # without a tangent, as by the kernel
        return affine(y, weight, bias, place).to(x.dtype), saved_mean.squeeze(axes), saved_inverse.squeeze(axes)
    if mean is None or variance is None:
        raise RuntimeError("batch normalisation in evaluation needs running statistics")
    none = x.new_zeros(0)
    if has_tangent(mean) or has_tangent(variance):
        y = (x.to(mean.dtype) - mean.reshape(place)) * torch.rsqrt(variance + eps).reshape(place)
        return affine(y, weight, bias, place).to(x.dtype), none, none
    return _normalised_by_constants(x, weight, bias, mean, variance, eps), none, none


def _normalised_by_constants(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> Tensor:
    """Normalise by constant statistics; the tangent is batch normalisation by the tangents of weight and bias.

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


def _elementary_evaluation(
    x: Tensor, weight: Any, bias: Any, mean: Tensor, variance: Tensor, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _elementary(x, weight, bias, mean, variance, False, momentum, eps)


def _elementary_training(
    x: Tensor, weight: Any, bias: Any, training: bool, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _elementary(x, weight, bias, None, None, training, momentum, eps)


def _fake(
    mode: FakeTensorMode, x: FakeTensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *_: Any
) -> tuple[FakeTensor, FakeTensor, FakeTensor]:
    """Return the fake result and the fake statistics, which are empty in evaluation."""
    saved = (x.shape[1] if training else 0,)
    wide = torch.promote_types(x.dtype, torch.float32) if training else x.dtype
    return fake_like(mode, x, x.shape, x.dtype), fake_like(mode, x, saved, wide), fake_like(mode, x, saved, wide)


def _batch_norm_of_any_order(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """Normalise each channel; from moments in training's second and higher derivatives, where PyTorch's are wrong."""
    if not training or not is_nested(x, weight, bias):
        whole: Tensor = aten.batch_norm.default._op_dk(
            *(DispatchKey.CompositeImplicitAutograd, x, weight, bias, mean, variance),
            *(training, momentum, eps, cudnn_enabled),
        )
        return whole
    note_norm("training-mode F.batch_norm or F.instance_norm")
    axes = [0, *range(2, x.dim())]
    _update_running(mean, variance, x.detach(), momentum)
    return composed_norm(widen(x), axes, weight, bias, eps).to(x.dtype)


COMPOSITES: dict[Any, Callable[..., Any]] = {aten.batch_norm.default: _batch_norm_of_any_order}

LOWERINGS: dict[Any, Lowering] = {
    aten.native_batch_norm.default: native_batch_norm,
    aten._native_batch_norm_legit.default: native_batch_norm,
    aten._native_batch_norm_legit.no_stats: no_statistics,
    aten._native_batch_norm_legit_no_training.default: no_training,
}

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {aten._native_batch_norm_legit_functional.default: _functional}

BATCHING: dict[Any, Callable[..., Any]] = {
    aten.native_batch_norm.default: _batched(aten.native_batch_norm.default),
    aten._native_batch_norm_legit_no_training.default: _batched(aten._native_batch_norm_legit_no_training.default),
    **pytorch_rules(aten.native_batch_norm_backward.default),
}

FORWARD_MODE: dict[Any, Callable[..., Any]] = {
    aten.native_batch_norm.default: _elementary,
    aten._native_batch_norm_legit.default: _elementary,
    aten._native_batch_norm_legit.no_stats: _elementary_training,
    aten._native_batch_norm_legit_no_training.default: _elementary_evaluation,
    aten.native_batch_norm_backward.default: JVP_DECOMPOSITIONS[aten.native_batch_norm_backward.default],
}

FAKES: dict[Any, Callable[..., Any]] = {aten.native_batch_norm.default: _fake}
