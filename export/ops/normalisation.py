"""Layer, group and root-mean-square normalisation, whole where ONNX Runtime has an exact kernel.

`vmap` and forward-mode derivatives in PyTorch compute with sizes as numbers; the rules here keep symbolic sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch._C import DispatchKey
from torch.fx import Node

from export.graph.builder import Builder, Lowering, node_dtype
from export.graph.onnx_types import REDUCED, accumulation_dtype
from export.ops.reduction import moments
from export.ops.shared.eager_derivatives import note_norm
from export.ops.shared.kernels import (
    JVP_DECOMPOSITIONS,
    Size,
    fold,
    mapped_kernel,
    mapped_size,
    pytorch_rules,
    unfold,
    with_mapped_axis,
)
from export.ops.shared.long_sums import mean_of
from pure.layers.alignment import widen
from pure.layers.norm_kernels import composed_layer_norm
from pure.layers.transform_levels import is_nested

__all__ = [
    "BATCHING",
    "COMPOSITES",
    "FORWARD_MODE",
    "LOWERINGS",
    "affine",
    "inverse_deviation",
    "scale_and_shift",
    "standardised",
]

aten: Any = torch.ops.aten


MAX_WHOLE_ROW = 16_384
"""The longest row that LayerNormalization is used for: ONNX Runtime's kernel adds it in order."""


def inverse_deviation(g: Builder, variance: ir.Value, eps: float) -> ir.Value:
    """Return 1/√(variance + eps)."""
    dtype = g.dtypes[variance]
    return g.op("Reciprocal", g.op("Sqrt", g.op("Add", variance, g.constant(eps, dtype))))


def scale_and_shift(
    g: Builder, value: ir.Value, weight: Any, bias: Any, dtype: torch.dtype, trailing: Sequence[int] = ()
) -> ir.Value:
    """Return value·weight + bias, both with axes of size 1 at `trailing`; None leaves one out."""
    if weight is not None:
        value = g.op("Mul", value, g.unsqueeze(g.tensor(weight, dtype), *trailing))
    return value if bias is None else g.op("Add", value, g.unsqueeze(g.tensor(bias, dtype), *trailing))


def layer_norm(
    g: Builder, node: Node, x: Any, shape: Sequence[Any], weight: Any, bias: Any, eps: float
) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
    """Normalise over the last axes, by LayerNormalization where only the result is used and the dtype allows it."""
    dtype = node_dtype(node)
    sizes_of_x = g.shape_of(x)
    axes = list(range(len(sizes_of_x) - len(shape), len(sizes_of_x)))
    used = {user.args[1] for user in node.users if user.args[0] is node}
    sizes = [g.static(size) for size in shape]
    whole = dtype != torch.float64 and dtype not in REDUCED and None not in sizes and not used & {1, 2}
    if whole and math.prod(size for size in sizes if size is not None) <= MAX_WHOLE_ROW:
        ones = torch.ones([size for size in sizes if size is not None], dtype=dtype)
        scale = g.tensor(weight) if weight is not None else g.tensor_constant(ones)
        inputs = [g.tensor(x), scale] + ([g.tensor(bias)] if bias is not None else [])
        return g.op("LayerNormalization", *inputs, axis=-len(shape), epsilon=float(eps)), None, None
    inner = accumulation_dtype(dtype)
    mean, centred, variance = moments(g, g.tensor(x, inner), sizes_of_x, axes)
    inverse = inverse_deviation(g, variance, eps)
    result = scale_and_shift(g, g.op("Mul", centred, inverse), weight, bias, inner)
    kept = node.meta["val"][1].dtype
    return g.cast(result, dtype), g.cast(mean, kept), g.cast(inverse, kept)


def group_norm(
    g: Builder, node: Node, x: Any, weight: Any, bias: Any, n: Any, channels: Any, area: Any, groups: int, eps: float
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Normalise each (sample, group), by two-pass moments."""
    dtype = node_dtype(node)
    inner = accumulation_dtype(dtype)
    shape = g.shape_of(x)
    value = g.tensor(x, inner)
    each = math.prod(shape[1:]) // groups
    size = g.static(each)  # of an empty batch no -1 beside a 0 can be found
    flat = g.op("Reshape", value, g.constant([0, groups, -1] if size is None else [-1, groups, size]))
    mean, centred, variance = moments(g, flat, [shape[0], groups, each], [2])
    inverse = inverse_deviation(g, variance, eps)
    result = g.op("Mul", centred, inverse)
    fixed = [g.static(size) for size in shape]
    target = g.constant([-1, *fixed[1:]]) if None not in fixed[1:] else g.runtime_shape(x)
    result = g.op("Reshape", result, target)
    result = scale_and_shift(g, result, weight, bias, inner, range(1, len(shape) - 1))
    kept = node.meta["val"][1].dtype
    two = g.constant([2])
    return g.cast(result, dtype), g.cast(g.op("Squeeze", mean, two), kept), g.cast(g.op("Squeeze", inverse, two), kept)


def rms_norm(
    g: Builder, node: Node, x: Any, shape: Sequence[Any], weight: Any, eps: float | None
) -> tuple[ir.Value, ir.Value]:
    """Return x / √(mean(x²) + eps), and the inverse root."""
    dtype = node_dtype(node)
    inner = accumulation_dtype(dtype)
    value = g.tensor(x, inner)
    chosen = torch.finfo(inner).eps if eps is None else eps
    sizes = g.shape_of(x)
    axes = list(range(len(sizes) - len(shape), len(sizes)))
    inverse = inverse_deviation(g, mean_of(g, g.op("Mul", value, value), sizes, axes, True), chosen)
    result = scale_and_shift(g, g.op("Mul", value, inverse), weight, None, inner)
    return g.cast(result, dtype), g.cast(inverse, node.meta["val"][1].dtype)


def _layer_norm_batched(
    mapped: Sequence[bool], x: Tensor, shape: Sequence[Size], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, ...]:
    """Take the mapped axis as one more outer axis; a mapped weight or bias is applied afterwards."""
    x = with_mapped_axis(x, mapped[0], mapped_size(mapped, (x, shape, weight, bias, eps)))
    inside = not (mapped[2] or mapped[3])
    y, mean, inverse = aten.native_layer_norm.default(
        x, shape, weight if inside else None, bias if inside else None, eps
    )
    if not inside:
        y = _affine_batched(y, weight, mapped[2], bias, mapped[3], y.dim() - len(shape))
    return y, mean, inverse


def _affine_batched(
    y: Tensor, weight: Tensor | None, weight_mapped: bool, bias: Tensor | None, bias_mapped: bool, axis: int
) -> Tensor:
    """Return y · weight + bias, aligned with axis `axis` of y, after the vmapped axis."""

    def placed(value: Tensor, mapped: bool) -> Tensor:
        front = [value.shape[0], *[1] * (axis - 1)] if mapped else []
        inner = list(value.shape[mapped:])
        return value.reshape(*front, *inner, *[1] * (y.dim() - axis - len(inner)))

    if weight is not None:
        y = y * placed(weight, weight_mapped)
    return y if bias is None else y + placed(bias, bias_mapped)


def _group_norm_batched(
    mapped: Sequence[bool],
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    n: Size,
    channels: Size,
    area: Size,
    groups: int,
    eps: float,
) -> tuple[Tensor, ...]:
    """Join the mapped axis to the batch, as each sample is normalised alone."""
    size = mapped_size(mapped, (x, weight, bias, n, channels, area, groups, eps))
    inside = not (mapped[1] or mapped[2])
    scale, shift = (weight, bias) if inside else (None, None)
    flat = fold(with_mapped_axis(x, mapped[0], size))
    results = aten.native_group_norm.default(flat, scale, shift, size * n, channels, area, groups, eps)
    y, mean, inverse = (unfold(value, size, n) for value in results)
    if not inside:
        y = _affine_batched(y, weight, mapped[1], bias, mapped[2], 2)
    return y, mean, inverse


def standardised(x: Tensor, axes: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x − mean) / √(variance + eps), the mean and the inverse root, never below float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    inverse = torch.rsqrt(variance + eps)
    return (wide - mean) * inverse, mean, inverse


def affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[Any]) -> Tensor:
    """Return x·weight + bias, both reshaped to `shape`; None leaves one out."""
    if weight is not None:
        x = x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def _layer_norm_elementary(
    x: Tensor, shape: Sequence[Any], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, inverse = standardised(x, list(range(-len(shape), 0)), eps)
    return affine(y, weight, bias, shape).to(x.dtype), mean, inverse


def _group_norm_elementary(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: Any, channels: Any, area: Any, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, inverse = standardised(x.reshape(n, groups, channels // groups * area), [2], eps)
    place = [channels, *[1] * (x.dim() - 2)]
    return affine(y.reshape(x.shape), weight, bias, place).to(x.dtype), mean.squeeze(2), inverse.squeeze(2)


def _layer_norm_of_any_order(
    x: Tensor,
    shape: Sequence[Any],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """Normalise over the last axes; from plain operations in second derivatives, where PyTorch's may be wrong."""
    if not is_nested(x, weight, bias):
        whole: Tensor = aten.layer_norm.default._op_dk(
            DispatchKey.CompositeImplicitAutograd, x, shape, weight, bias, eps, cudnn_enable
        )
        return whole
    note_norm("F.layer_norm")
    return composed_layer_norm(widen(x), shape, weight, bias, eps).to(x.dtype)


COMPOSITES: dict[Any, Callable[..., Any]] = {aten.layer_norm.default: _layer_norm_of_any_order}

LOWERINGS: dict[Any, Lowering] = {
    aten.native_layer_norm.default: layer_norm,
    aten.native_group_norm.default: group_norm,
    aten._fused_rms_norm.default: rms_norm,
}

BATCHING: dict[Any, Callable[..., Any]] = {
    aten.native_layer_norm.default: mapped_kernel(aten.native_layer_norm.default, _layer_norm_batched),
    aten.native_group_norm.default: mapped_kernel(aten.native_group_norm.default, _group_norm_batched),
    **pytorch_rules(aten.native_layer_norm_backward.default, aten.native_group_norm_backward.default),
}

FORWARD_MODE: dict[Any, Callable[..., Any]] = {
    aten.native_layer_norm.default: _layer_norm_elementary,
    aten.native_group_norm.default: _group_norm_elementary,
    aten.native_layer_norm_backward.default: JVP_DECOMPOSITIONS[aten.native_layer_norm_backward.default],
}
