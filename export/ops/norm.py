"""Normalisations, whole where ONNX Runtime has an exact kernel, otherwise from means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import REDUCED, Builder, Rule, node_dtype

aten: Any = torch.ops.aten


def _moments(g: Builder, x: ir.Value, axes: Sequence[int]) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Mean, x minus the mean, and the biased variance, by two passes."""
    where = g.constant(list(axes))
    mean = g.op("ReduceMean", x, where, keepdims=1)
    centred = g.op("Sub", x, mean)
    return mean, centred, g.op("ReduceMean", g.op("Mul", centred, centred), where, keepdims=1)


def _inverse_deviation(g: Builder, variance: ir.Value, eps: float) -> ir.Value:
    dtype = g.dtypes[variance]
    return g.op("Reciprocal", g.op("Sqrt", g.op("Add", variance, g.constant(eps, dtype))))


def layer_norm(
    g: Builder, node: Node, x: Any, shape: Sequence[Any], weight: Any, bias: Any, eps: float
) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
    """LayerNormalization over the last axes, with mean and inverse deviation if something uses them."""
    dtype = node_dtype(node)
    axes = list(range(-len(shape), 0))
    used = {user.args[1] for user in node.users if user.args[0] is node}
    sizes = [g.static(size) for size in shape]
    if dtype != torch.float64 and dtype not in REDUCED and None not in sizes and not used & {1, 2}:
        ones = torch.ones([size for size in sizes if size is not None], dtype=dtype)
        scale = g.tensor(weight) if weight is not None else g.tensor_constant(ones)
        inputs = [g.tensor(x), scale] + ([g.tensor(bias)] if bias is not None else [])
        return g.op("LayerNormalization", *inputs, axis=-len(shape), epsilon=float(eps)), None, None
    inner = torch.float32 if dtype in REDUCED else dtype
    mean, centred, variance = _moments(g, g.tensor(x, inner), axes)
    inverse = _inverse_deviation(g, variance, eps)
    result = g.op("Mul", centred, inverse)
    if weight is not None:
        result = g.op("Mul", result, g.tensor(weight, inner))
    if bias is not None:
        result = g.op("Add", result, g.tensor(bias, inner))
    kept = node.meta["val"][1].dtype
    return g.cast(result, dtype), g.cast(mean, kept), g.cast(inverse, kept)


def group_norm(
    g: Builder, node: Node, x: Any, weight: Any, bias: Any, n: Any, channels: Any, area: Any, groups: int, eps: float
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Group normalisation: mean and variance of each (sample, group), from means."""
    dtype = node_dtype(node)
    inner = torch.float32 if dtype in REDUCED else dtype
    shape = g.shape_of(x)
    value = g.tensor(x, inner)
    flat = g.op("Reshape", value, g.constant([0, groups, -1]))
    mean, centred, variance = _moments(g, flat, [2])
    inverse = _inverse_deviation(g, variance, eps)
    result = g.op("Mul", centred, inverse)
    fixed = [g.static(size) for size in shape]
    target = g.constant([-1, *fixed[1:]]) if None not in fixed[1:] else g.runtime_shape(x)
    result = g.op("Reshape", result, target)
    trailing = list(range(1, len(shape) - 1))
    if weight is not None:
        result = g.op("Mul", result, g.unsqueeze(g.tensor(weight, inner), *trailing))
    if bias is not None:
        result = g.op("Add", result, g.unsqueeze(g.tensor(bias, inner), *trailing))
    kept = node.meta["val"][1].dtype
    two = g.constant([2])
    return g.cast(result, dtype), g.cast(g.op("Squeeze", mean, two), kept), g.cast(g.op("Squeeze", inverse, two), kept)


def _per_channel(g: Builder, value: ir.Value, rank: int) -> ir.Value:
    return g.unsqueeze(value, *range(1, rank - 1))


def _batch_norm(
    g: Builder, node: Node, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, eps: float
) -> ir.Value:
    """Evaluation: the running statistics as they are."""
    dtype = node_dtype(node)
    rank = len(g.shape_of(x))
    inner = torch.float32 if dtype in REDUCED else dtype
    if dtype == torch.float32:
        channels = g.static(g.shape_of(x)[1])
        if channels is None:
            raise g.unsupported("the number of channels must not be dynamic")
        scale = g.tensor(weight) if weight is not None else g.tensor_constant(torch.ones(channels, dtype=dtype))
        shift = g.tensor(bias) if bias is not None else g.tensor_constant(torch.zeros(channels, dtype=dtype))
        inputs = [g.tensor(x), scale, shift, g.tensor(mean, inner), g.tensor(variance, inner)]
        return g.op("BatchNormalization", *inputs, epsilon=float(eps))
    inverse = _inverse_deviation(g, g.tensor(variance, inner), eps)
    factor = inverse if weight is None else g.op("Mul", inverse, g.tensor(weight, inner))
    centred = g.op("Sub", g.tensor(x, inner), _per_channel(g, g.tensor(mean, inner), rank))
    result = g.op("Mul", centred, _per_channel(g, factor, rank))
    if bias is not None:
        result = g.op("Add", result, _per_channel(g, g.tensor(bias, inner), rank))
    return g.cast(result, dtype)


def _batch_norm_training(
    g: Builder, node: Node, x: Any, weight: Any, bias: Any, eps: float
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Training: the batch's statistics, returned as mean and inverse deviation."""
    dtype = node_dtype(node)
    rank = len(g.shape_of(x))
    inner = torch.float32 if dtype in REDUCED else dtype
    axes = [0, *range(2, rank)]
    mean, centred, variance = _moments(g, g.tensor(x, inner), axes)
    inverse = _inverse_deviation(g, variance, eps)
    result = g.op("Mul", centred, inverse)
    if weight is not None:
        result = g.op("Mul", result, _per_channel(g, g.tensor(weight, inner), rank))
    if bias is not None:
        result = g.op("Add", result, _per_channel(g, g.tensor(bias, inner), rank))
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
    """Evaluation with running statistics, or training without any."""
    if not training:
        return _batch_norm(g, node, x, weight, bias, mean, variance, eps), None, None
    return _batch_norm_training(g, node, x, weight, bias, eps)


def no_training(
    g: Builder, node: Node, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float, eps: float
) -> tuple[ir.Value | None, ...]:
    """Evaluation."""
    return _batch_norm(g, node, x, weight, bias, mean, variance, eps), None, None


def no_statistics(
    g: Builder, node: Node, x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float
) -> tuple[ir.Value | None, ...]:
    """Training without running statistics."""
    return _batch_norm_training(g, node, x, weight, bias, eps)


def rms_norm(
    g: Builder, node: Node, x: Any, shape: Sequence[Any], weight: Any, eps: float | None
) -> tuple[ir.Value, ir.Value]:
    """x / √(mean(x²) + eps), and the inverse root."""
    dtype = node_dtype(node)
    inner = torch.float32 if dtype in REDUCED else dtype
    value = g.tensor(x, inner)
    chosen = torch.finfo(inner).eps if eps is None else eps
    axes = g.constant(list(range(-len(shape), 0)))
    inverse = _inverse_deviation(g, g.op("ReduceMean", g.op("Mul", value, value), axes, keepdims=1), chosen)
    result = g.op("Mul", value, inverse)
    if weight is not None:
        result = g.op("Mul", result, g.tensor(weight, inner))
    return g.cast(result, dtype), g.cast(inverse, node.meta["val"][1].dtype)


def variance_mean(
    g: Builder, node: Node, x: Any, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> Any:
    """``aten.var_mean.correction``."""
    return _variance(g, x, dim, correction, keepdim)


def variance(
    g: Builder, node: Node, x: Any, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> ir.Value:
    """``aten.var.correction``."""
    return _variance(g, x, dim, correction, keepdim)[0]


def _variance(g: Builder, x: Any, dim: Any, correction: float | None, keepdim: bool) -> tuple[ir.Value, ir.Value]:
    shape = g.shape_of(x)
    axes = sorted(d % max(len(shape), 1) for d in (dim or range(len(shape))))
    value = g.tensor(x)
    dtype = g.dtypes[value]
    inner = torch.float32 if dtype in REDUCED else dtype
    mean, centred, _ = _moments(g, g.cast(value, inner), axes)
    where = g.constant(axes)
    total = g.op("ReduceSum", g.op("Mul", centred, centred), where, keepdims=1)
    sizes = [g.static(shape[axis]) for axis in axes]
    lost = 1.0 if correction is None else float(correction)
    if None not in sizes:
        freedom = g.constant(max(math.prod(s for s in sizes if s is not None) - lost, 0.0), inner)
    else:
        count = g.op("ReduceProd", g.op("Gather", g.op("Shape", g.tensor(x), dtype=torch.int64), where), keepdims=0)
        freedom = g.op("Max", g.op("Sub", g.cast(count, inner), g.constant(lost, inner)), g.constant(0.0, inner))
    result = g.op("Div", total, freedom)
    if not keepdim:
        result, mean = g.op("Squeeze", result, where), g.op("Squeeze", mean, where)
    return g.cast(result, dtype), g.cast(mean, dtype)


TABLE: dict[Any, Rule] = {
    aten.native_layer_norm.default: layer_norm,
    aten.native_group_norm.default: group_norm,
    aten.native_batch_norm.default: native_batch_norm,
    aten._native_batch_norm_legit.default: native_batch_norm,
    aten._native_batch_norm_legit.no_stats: no_statistics,
    aten._native_batch_norm_legit_no_training.default: no_training,
    aten._fused_rms_norm.default: rms_norm,
    aten.var_mean.correction: variance_mean,
    aten.var.correction: variance,
}
"""Normalisations and variances."""
