"""Rules of ATen operations: which positions of operands and result are the same channel.

A rule takes the registry, the shape of the result, and the node's arguments with values in place of nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from pure.block import Shape
from pure.errors import UnsupportedError
from pure.pruning import reshaping
from pure.pruning.labels import Registry, Value, fixed, fixed_value

__all__ = ["apply_rule"]

Rule = Callable[..., Any]
"""(registry, shape of the result, *args, **kwargs) → value, or a tuple of values.

One value stands for every output of an operation that has several.
"""


def _elementwise(registry: Registry, shape: Shape, *args: Any, **kwargs: Any) -> Value:
    values = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Value)]
    leaf = values[0].leaf if len(values) == 1 else None
    return Value(registry.broadcast(values), leaf)


def _glu(registry: Registry, shape: Shape, x: Value, axis: int = -1) -> Value:
    half = x.shape[axis] // 2
    first, second = (reshaping.take(x, axis, part) for part in (slice(0, half), slice(half, None)))
    return Value(registry.broadcast([first, second]))


def _same(registry: Registry, shape: Shape, x: Value, *rest: Any, **kwargs: Any) -> Value:
    return x


def _constant(registry: Registry, shape: Shape, *args: Any, **kwargs: Any) -> Value:
    return fixed_value(shape)


def _mm(registry: Registry, shape: Shape, a: Value, b: Value) -> Value:
    """(…, n, k) times (…, k, m), (k,) in place of either's last axes."""
    rows, columns = len(a.axes) > 1, len(b.axes) > 1
    registry.contract(a.axes[-1], b, -2 if columns else -1)
    if a.leaf is not None:
        registry.contract(b.axes[-2 if columns else -1], a, -1)
    batch = registry.broadcast([Value(a.axes[:-2]), Value(b.axes[:-2])])
    return Value((*batch, *(a.axes[-2:-1] if rows else ()), *(b.axes[-1:] if columns else ())))


def _addmm(registry: Registry, shape: Shape, bias: Value, a: Value, b: Value, **kwargs: Any) -> Value:
    return Value(registry.broadcast([_mm(registry, shape, a, b), bias]))


def _linear(registry: Registry, shape: Shape, x: Value, weight: Value, bias: Value | None = None) -> Value:
    registry.contract(x.axes[-1], weight, -1)
    y = Value((*x.axes[:-1], weight.axes[0]))
    return y if bias is None else Value(registry.broadcast([y, bias]))


def _convolution(
    registry: Registry,
    shape: Shape,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool = False,
    output_padding: Any = 0,
    groups: int = 1,
) -> Value:
    for axis in (*x.axes[2:], *weight.axes[2:]):
        registry.pin(axis)
    if groups == 1:
        registry.contract(x.axes[1], weight, 0 if transposed else 1)
        channels = weight.axes[1 if transposed else 0]
    else:  # a group goes as a whole, so that the others keep their inputs
        registry.pin(weight.axes[1])
        if weight.leaf is not None:
            registry.kernels.add(weight.leaf)
        channels = registry.fresh(shape[1]) if transposed else weight.axes[0]
        parts = [x.axes[1], channels, *([weight.axes[0]] if transposed else [])]
        registry.join_rows(torch.cat([part.reshape(groups, -1) for part in parts], 1))
    if bias is not None:
        registry.join(channels, bias.axes[0])
    return Value((x.axes[0], channels, *(fixed(size) for size in shape[2:])))


def _gain(registry: Registry, x: Value, *vectors: Value | None) -> None:
    """Join per-channel vectors with the channel axis, axis 1; the first vector is the gain."""
    for vector in vectors:
        if vector is not None:
            registry.join(x.axes[1], vector.axes[0])
    if vectors[0] is not None and vectors[0].leaf is not None:
        registry.gains.add(vectors[0].leaf)


def _batch_norm(
    registry: Registry,
    shape: Shape,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    *rest: Any,
    **kwargs: Any,
) -> tuple[Value, ...]:
    _gain(registry, x, weight, bias, mean, variance)
    return x, fixed_value((0,)), fixed_value((0,))


def _norm_over_last(
    registry: Registry, shape: Shape, x: Value, sizes: Sequence[int], *weight_bias_eps: Any
) -> tuple[Value, ...]:
    """Pin the last axes, which a layer or RMS norm runs over: cutting one channel would change the others."""
    normed = registry.pin_axes(x, range(-len(sizes), 0))
    for vector in weight_bias_eps:
        if isinstance(vector, Value):
            registry.pin_value(vector)
    statistics = Value(normed.axes[: -len(sizes)])
    return normed, statistics, statistics


def _group_norm(
    registry: Registry, shape: Shape, x: Value, weight: Value | None, bias: Value | None, *rest: Any
) -> tuple[Value, ...]:
    groups = rest[3]
    registry.join_rows(x.axes[1].reshape(groups, -1))
    _gain(registry, x, weight, bias)
    for axis in x.axes[2:]:
        registry.pin(axis)
    return x, fixed_value((x.shape[0], groups)), fixed_value((x.shape[0], groups))


def _reduce(registry: Registry, shape: Shape, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Pin the axes that are reduced (all if none is named): a mean or a sum runs over every channel."""
    axes = args[0] if args else kwargs.get("dim")
    if isinstance(axes, int):
        axes = None if isinstance(axes, bool) else [axes]
    rank = len(x.axes)
    gone = {axis % rank for axis in axes} if axes else set(range(rank))
    registry.pin_axes(x, gone)
    if len(shape) == rank:
        return Value(tuple(fixed(shape[i]) if i in gone else axis for i, axis in enumerate(x.axes)))
    return Value(tuple(axis for i, axis in enumerate(x.axes) if i not in gone))


def _vector_norm(registry: Registry, shape: Shape, x: Value, order: Any = 2, axes: Any = None, *rest: Any) -> Value:
    return _reduce(registry, shape, x, axes)


def _along(registry: Registry, shape: Shape, x: Value, axis: int, *rest: Any, **kwargs: Any) -> Value:
    """Pin the axis along which an operation runs that keeps its size, such as softmax."""
    return registry.pin_axes(x, [axis] if x.axes else [])


def _spatial(registry: Registry, shape: Shape, x: Value, *rest: Any, **kwargs: Any) -> Value:
    """Pin the spatial axes of a pooling or resizing, which treats each channel by itself."""
    space = len(shape) - 2 if len(x.axes) == len(shape) else 0
    for axis in x.axes[2:]:
        registry.pin(axis)
    return Value((*x.axes[: len(shape) - space], *(fixed(size) for size in shape[len(shape) - space :])))


def _embedding(registry: Registry, shape: Shape, weight: Value, indices: Value, *rest: Any, **kwargs: Any) -> Value:
    registry.pin(weight.axes[0])
    if weight.leaf is not None:
        registry.kernels.add(weight.leaf)
    return Value((*indices.axes, weight.axes[1]))


def _attention(
    registry: Registry, shape: Shape, q: Value, k: Value, v: Value, *rest: Any, **kwargs: Any
) -> tuple[Value, ...]:
    for axis in (q.axes[-1], k.axes[-1], q.axes[-2], k.axes[-2], v.axes[-2]):  # the scale is 1/√features
        registry.pin(axis)
    heads = registry.broadcast([Value(value.axes[:-2]) for value in (q, k, v)])
    out = Value((*heads, fixed(q.shape[-2]), v.axes[-1]))
    return (out, *(fixed_value(()) for _ in range(8)))


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(("hardswish", "hardsigmoid", "hardtanh", "mish", "softplus", "elu", "celu"), _elementwise),
    **dict.fromkeys(("leaky_relu", "threshold", "_prelu_kernel", "lerp", "softshrink", "hardshrink"), _elementwise),
    "glu": _glu,
    **dict.fromkeys(("clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh_copy", "dropout"), _same),
    **dict.fromkeys(("full_like", "zeros_like", "ones_like", "empty_like"), _same),
    **dict.fromkeys(("full", "zeros", "ones", "empty", "arange", "scalar_tensor", "eye", "linspace"), _constant),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), reshaping.view),
    **dict.fromkeys(("squeeze", "unsqueeze", "flatten"), reshaping.view),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std", "prod", "logsumexp"), _reduce),
    **dict.fromkeys(("argmax", "argmin", "all", "any", "var_mean", "std_mean", "max", "min"), _reduce),
    **dict.fromkeys(("_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum", "cumprod"), _along),
    **dict.fromkeys(
        ("avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "adaptive_avg_pool1d"), _spatial
    ),
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d"), _spatial),
    **dict.fromkeys(("upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d"), _spatial),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d"), _spatial),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"), _batch_norm),
    **dict.fromkeys(("mm", "bmm", "matmul", "mv", "dot"), _mm),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _addmm),
    **dict.fromkeys(("split", "split_with_sizes"), reshaping.split),
    **dict.fromkeys(("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"), _attention),
    **dict.fromkeys(("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math"), _attention),
    "scaled_dot_product_attention": _attention,
    "linalg_vector_norm": _vector_norm,
    "permute": reshaping.permute,
    "transpose": reshaping.transpose,
    "t": reshaping.transpose_matrix,
    "expand": reshaping.expand,
    "slice": reshaping.slice_axis,
    "select": reshaping.select,
    "unbind": reshaping.unbind,
    "flip": reshaping.flip,
    "roll": reshaping.roll,
    "cat": reshaping.cat,
    "stack": reshaping.stack,
    "constant_pad_nd": reshaping.constant_pad_nd,
    "linear": _linear,
    "convolution": _convolution,
    "native_layer_norm": _norm_over_last,
    "_fused_rms_norm": _norm_over_last,
    "native_group_norm": _group_norm,
    "embedding": _embedding,
}


def apply_rule(registry: Registry, target: Any, shape: Shape, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Return the value of a node's operation, or the values of its outputs.

    Args:
        registry: joins and pins the channels that the operation mixes.
        target: the operation, an overload of `torch.ops`.
        shape: of the result; of the first one where there are several.
        args: the node's arguments, a `Value` in place of each tensor.
        kwargs: its keyword arguments, likewise.

    Raises:
        UnsupportedError: an operation without a rule.
    """
    if torch.Tag.pointwise in getattr(target, "tags", ()):
        return _elementwise(registry, shape, *args, **kwargs)
    schema = getattr(target, "_schema", None)
    name = "" if schema is None else schema.name.removeprefix("aten::")
    name = name if name in RULES else name.removesuffix("_")  # in place, on a value of its own
    if name in RULES:
        return RULES[name](registry, shape, *args, **kwargs)
    raise UnsupportedError(
        f"coupled channels: no rule says how {target} treats channels: prune the parts around it, or write it in "
        "operations that have one"
    )
