"""What each ATen operation says about channels: which positions of its operands and result are the same channel.

A rule takes the registry, the node's arguments with values in place of nodes, and the shape of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from pure.errors import UnsupportedError
from pure.pruning import reshaping
from pure.pruning.labels import Registry, Value, fixed, fixed_value

__all__ = ["apply_rule"]

Shape = tuple[int, ...]
Rule = Callable[..., Any]
"""(registry, shape of the result, *args, **kwargs) → value, or a tuple of values."""


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


def _view(registry: Registry, shape: Shape, x: Value, *rest: Any, **kwargs: Any) -> Value:
    return reshaping.view(registry, x, shape)


def _permute(registry: Registry, shape: Shape, x: Value, order: Sequence[int]) -> Value:
    return reshaping.permute(x, order)


def _transpose(registry: Registry, shape: Shape, x: Value, first: int, second: int) -> Value:
    order = list(range(len(x.axes)))
    order[first], order[second] = order[second], order[first]
    return reshaping.permute(x, order)


def _t(registry: Registry, shape: Shape, x: Value) -> Value:
    return reshaping.permute(x, range(len(x.axes))[::-1])


def _expand(registry: Registry, shape: Shape, x: Value, *rest: Any, **kwargs: Any) -> Value:
    return reshaping.expand(x, shape)


def _slice(
    registry: Registry,
    shape: Shape,
    x: Value,
    axis: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    return reshaping.take(x, axis, slice(start, end, step))


def _select(registry: Registry, shape: Shape, x: Value, axis: int, index: int) -> Value:
    return reshaping.select(registry, x, axis)


def _unbind(registry: Registry, shape: Shape, x: Value, axis: int = 0) -> tuple[Value, ...]:
    return (reshaping.select(registry, x, axis),) * x.shape[axis]


def _split(registry: Registry, shape: Shape, x: Value, sizes: int | Sequence[int], axis: int = 0) -> tuple[Value, ...]:
    whole = x.shape[axis]
    parts = [min(sizes, whole - start) for start in range(0, whole, sizes)] if isinstance(sizes, int) else list(sizes)
    starts = [sum(parts[:i]) for i in range(len(parts))]
    return tuple(reshaping.take(x, axis, slice(start, start + size)) for start, size in zip(starts, parts, strict=True))


def _flip(registry: Registry, shape: Shape, x: Value, axes: Sequence[int]) -> Value:
    for axis in axes:
        x = reshaping.take(x, axis, torch.arange(x.shape[axis] - 1, -1, -1))
    return x


def _roll(registry: Registry, shape: Shape, x: Value, shifts: Sequence[int], axes: Sequence[int] = ()) -> Value:
    places = [axis % len(x.axes) for axis in axes] or list(range(len(x.axes)))
    return Value(tuple(registry.pin(a) if i in places else a for i, a in enumerate(x.axes)))


def _cat(registry: Registry, shape: Shape, values: Sequence[Value], axis: int = 0) -> Value:
    return reshaping.cat(registry, [value for value in values if value.shape != (0,)], axis)


def _stack(registry: Registry, shape: Shape, values: Sequence[Value], axis: int = 0) -> Value:
    axis %= len(shape)
    joined = registry.broadcast(values)
    return Value((*joined[:axis], fixed(shape[axis]), *joined[axis:]))


def _pad(registry: Registry, shape: Shape, x: Value, amounts: Sequence[int], value: float = 0.0) -> Value:
    return reshaping.pad(registry, x, amounts, zeros=value == 0)


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


def _gain(registry: Registry, x: Value, axis: int, *vectors: Value | None) -> None:
    """Join per-channel vectors with an axis; the first is the gain."""
    for vector in vectors:
        if vector is not None:
            registry.join(x.axes[axis], vector.axes[0])
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
    _gain(registry, x, 1, weight, bias, mean, variance)
    return x, fixed_value((0,)), fixed_value((0,))


def _norm_over(registry: Registry, x: Value, count: int, *vectors: Value | None) -> tuple[Value, ...]:
    """Statistics over the last `count` axes: cutting one channel would change the others."""
    axes = (*x.axes[: len(x.axes) - count], *(registry.pin(axis) for axis in x.axes[len(x.axes) - count :]))
    for vector in vectors:
        if vector is not None:
            registry.pin_value(vector)
    return Value(axes), Value(axes[:-count]), Value(axes[:-count])


def _layer_norm(
    registry: Registry, shape: Shape, x: Value, sizes: Sequence[int], weight: Value | None, bias: Value | None, eps: Any
) -> tuple[Value, ...]:
    return _norm_over(registry, x, len(sizes), weight, bias)


def _rms_norm(
    registry: Registry, shape: Shape, x: Value, sizes: Sequence[int], weight: Value | None, eps: Any
) -> tuple[Value, ...]:
    return _norm_over(registry, x, len(sizes), weight)


def _group_norm(
    registry: Registry, shape: Shape, x: Value, weight: Value | None, bias: Value | None, *rest: Any
) -> tuple[Value, ...]:
    groups = rest[3]
    registry.join_rows(x.axes[1].reshape(groups, -1))
    _gain(registry, x, 1, weight, bias)
    for axis in x.axes[2:]:
        registry.pin(axis)
    return x, fixed_value((x.shape[0], groups)), fixed_value((x.shape[0], groups))


def _reduce(registry: Registry, shape: Shape, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Reduce some axes (none named: all): a mean or a sum over channels counts them, so they are pinned."""
    axes = args[0] if args else kwargs.get("dim")
    if isinstance(axes, int):
        axes = None if isinstance(axes, bool) else [axes]
    rank = len(x.axes)
    gone = {axis % rank for axis in axes} if axes else set(range(rank))
    kept = [registry.pin(axis) if place in gone else axis for place, axis in enumerate(x.axes)]
    if len(shape) == rank:
        return Value(tuple(fixed(shape[i]) if i in gone else axis for i, axis in enumerate(kept)))
    return Value(tuple(axis for i, axis in enumerate(kept) if i not in gone))


def _vector_norm(registry: Registry, shape: Shape, x: Value, order: Any = 2, axes: Any = None, *rest: Any) -> Value:
    return _reduce(registry, shape, x, axes)


def _reduce_twice(registry: Registry, shape: Shape, x: Value, *args: Any, **kwargs: Any) -> tuple[Value, Value]:
    reduced = _reduce(registry, shape, x, *args, **kwargs)
    return reduced, reduced


def _along(registry: Registry, shape: Shape, x: Value, axis: int, *rest: Any, **kwargs: Any) -> Value:
    """An operation along one axis that keeps its size, such as softmax."""
    axis %= max(len(x.axes), 1)
    return Value(tuple(registry.pin(labels) if i == axis else labels for i, labels in enumerate(x.axes)))


def _spatial(registry: Registry, shape: Shape, x: Value, *rest: Any, **kwargs: Any) -> Value:
    """Pooling and resizing: each channel by itself."""
    space = len(shape) - 2 if len(x.axes) == len(shape) else 0
    for axis in x.axes[2:]:
        registry.pin(axis)
    return Value((*x.axes[: len(shape) - space], *(fixed(size) for size in shape[len(shape) - space :])))


def _spatial_twice(registry: Registry, shape: Shape, x: Value, *rest: Any, **kwargs: Any) -> tuple[Value, Value]:
    pooled = _spatial(registry, shape, x)
    return pooled, pooled


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


def _attention_alone(registry: Registry, shape: Shape, *args: Any, **kwargs: Any) -> Value:
    return _attention(registry, shape, *args, **kwargs)[0]


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(("hardswish", "hardsigmoid", "hardtanh", "mish", "softplus", "elu", "celu"), _elementwise),
    **dict.fromkeys(("leaky_relu", "threshold", "_prelu_kernel", "lerp", "softshrink", "hardshrink"), _elementwise),
    "glu": _glu,
    **dict.fromkeys(("clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh_copy", "dropout"), _same),
    **dict.fromkeys(("full_like", "zeros_like", "ones_like", "empty_like"), _same),
    **dict.fromkeys(("full", "zeros", "ones", "empty", "arange", "scalar_tensor", "eye", "linspace"), _constant),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "flatten", "_reshape_alias"), _view),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std", "prod", "logsumexp"), _reduce),
    **dict.fromkeys(("argmax", "argmin", "all", "any"), _reduce),
    **dict.fromkeys(("var_mean", "std_mean", "max", "min"), _reduce_twice),
    **dict.fromkeys(("_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum", "cumprod"), _along),
    **dict.fromkeys(
        ("avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "adaptive_avg_pool1d"), _spatial
    ),
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d"), _spatial),
    **dict.fromkeys(("upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d"), _spatial),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d"), _spatial_twice),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"), _batch_norm),
    **dict.fromkeys(("mm", "bmm", "matmul", "mv", "dot"), _mm),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _addmm),
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    **dict.fromkeys(("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"), _attention),
    **dict.fromkeys(("_scaled_dot_product_flash_attention_for_cpu",), _attention),
    **dict.fromkeys(("_scaled_dot_product_attention_math",), _attention),
    "scaled_dot_product_attention": _attention_alone,
    "linalg_vector_norm": _vector_norm,
    "permute": _permute,
    "transpose": _transpose,
    "t": _t,
    "expand": _expand,
    "slice": _slice,
    "select": _select,
    "unbind": _unbind,
    "flip": _flip,
    "roll": _roll,
    "cat": _cat,
    "stack": _stack,
    "constant_pad_nd": _pad,
    "linear": _linear,
    "convolution": _convolution,
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _rms_norm,
    "native_group_norm": _group_norm,
    "embedding": _embedding,
}


def apply_rule(registry: Registry, target: Any, shape: Shape, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Return the value of a node's operation.

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
