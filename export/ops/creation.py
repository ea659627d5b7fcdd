"""Tensors made of sizes alone: filled ones, ranges and cosine windows.

They are constants where the sizes are known, ConstantOfShape and Range where they are not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import Builder, Lowering, node_dtype
from export.graph.onnx_types import to_ir_tensor
from export.trace.recording import zero_tangent

__all__ = ["DECOMPOSITIONS", "LOWERINGS"]

aten: Any = torch.ops.aten

_MAX_STORED_ELEMENTS = 1024
"""Up to so many elements a filled tensor is stored; a larger one is made at run time."""


def _filled(g: Builder, dtype: torch.dtype, sizes: Sequence[Any], value: Any) -> ir.Value:
    """A tensor of one value."""
    fixed = [g.static(size) for size in sizes]
    if isinstance(value, Node):
        return g.op("Expand", g.tensor(value, dtype), g.ints(sizes))
    if None not in fixed:
        known = [size for size in fixed if size is not None]
        if torch.Size(known).numel() <= _MAX_STORED_ELEMENTS:
            return g.tensor_constant(torch.full(known, value, dtype=dtype))
    content = to_ir_tensor(torch.full((1,), value, dtype=dtype), "value")
    return g.op("ConstantOfShape", g.ints(sizes), dtype=dtype, value=ir.AttrTensor("value", content))


def full(g: Builder, node: Node, size: Sequence[Any], value: Any, **_: Any) -> ir.Value:
    """`torch.full`."""
    return _filled(g, node_dtype(node), size, value)


def constant_fill(value: float) -> Lowering:
    """zeros, ones and empty (of which zeros is one possible content)."""

    def rule(g: Builder, node: Node, size: Sequence[Any], *_: Any, **__: Any) -> ir.Value:
        return _filled(g, node_dtype(node), size, value)

    return rule


def like(value: float) -> Lowering:
    """zeros_like, ones_like, empty_like."""

    def rule(g: Builder, node: Node, x: Any, *_: Any, **__: Any) -> ir.Value:
        return _like(g, node, x, value)

    return rule


def full_like(g: Builder, node: Node, x: Any, value: Any, **_: Any) -> ir.Value:
    """`torch.full_like`."""
    return _like(g, node, x, value)


def _like(g: Builder, node: Node, x: Any, value: Any) -> ir.Value:
    dtype = node_dtype(node)
    shape = g.shape_of(x)
    if isinstance(value, Node) or None not in [g.static(size) for size in shape]:
        return (
            _filled(g, dtype, shape, value)
            if not isinstance(value, Node)
            else g.op("Expand", g.tensor(value, dtype), g.runtime_shape(x))
        )
    content = to_ir_tensor(torch.full((1,), value, dtype=dtype), "value")
    return g.op("ConstantOfShape", g.runtime_shape(x), dtype=dtype, value=ir.AttrTensor("value", content))


def new_full(g: Builder, node: Node, x: Any, size: Sequence[Any], value: Any, **_: Any) -> ir.Value:
    """`x.new_full`."""
    return _filled(g, node_dtype(node), size, value)


def new_fill(value: float) -> Lowering:
    """new_zeros, new_ones, new_empty."""

    def rule(g: Builder, node: Node, x: Any, size: Sequence[Any], **_: Any) -> ir.Value:
        return _filled(g, node_dtype(node), size, value)

    return rule


def new_strided(g: Builder, node: Node, x: Any, size: Sequence[Any], stride: Any, **_: Any) -> ir.Value:
    """`x.new_empty_strided`: strides have no meaning in ONNX."""
    return _filled(g, node_dtype(node), size, 0)


def arange(g: Builder, node: Node, start: Any, end: Any = None, step: Any = 1, **_: Any) -> ir.Value:
    """A range; a constant if its ends are numbers."""
    dtype = node_dtype(node)
    if end is None:
        start, end = 0, start
    if not any(isinstance(bound, Node) for bound in (start, end, step)):
        return g.tensor_constant(torch.arange(start, end, step, dtype=dtype))
    inner = torch.int64 if not dtype.is_floating_point else dtype
    return g.cast(
        g.op("Range", g.tensor(start, inner), g.tensor(end, inner), g.tensor(step, inner), dtype=inner), dtype
    )


def scalar_tensor(g: Builder, node: Node, value: Any, **_: Any) -> ir.Value:
    """A number as a tensor."""
    return g.tensor(value, node_dtype(node))


def iota(g: Builder, node: Node, length: Any, *, start: int = 0, step: int = 1, **_: Any) -> ir.Value:
    """`prims.iota`: start, start + step, …, `length` of them."""
    dtype = node_dtype(node)
    fixed = g.static(length)
    if fixed is not None:
        return g.tensor_constant(torch.arange(fixed, dtype=dtype) * step + start)
    count = g.op("Range", g.constant(0), g.tensor(length), g.constant(1), dtype=torch.int64)
    return g.cast(g.op("Add", g.op("Mul", count, g.constant(step)), g.constant(start)), dtype)


def _zero_tangent(
    size: Sequence[Any], *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None
) -> torch.Tensor:
    """A tangent that is zero. PyTorch marks it as such; the marked tensor has no symbolic size, and no device here."""
    with zero_tangent():
        return torch.zeros((), dtype=dtype, device=device).expand(size)


def _zeros_like_feature(x: torch.Tensor, other: torch.Tensor, *, self_num_batch_dims: int = 0) -> torch.Tensor:
    """Zeros of the other's shape, behind the batch axes of the first."""
    return x.new_zeros([*x.shape[:self_num_batch_dims], *other.shape])


def _cosine_window(
    weights: tuple[float, float, float],
    length: int,
    periodic: bool = True,
    *,
    dtype: torch.dtype | None = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
) -> torch.Tensor:
    """c·cos(2t) − b·cos(t) + a; t makes a full turn in `length` steps, in one step less if not periodic."""
    if length == 1:
        return torch.ones(1, dtype=dtype, device=device)
    a, b, c = weights
    step = 2 * math.pi / max(length if periodic else length - 1, 1)
    turn = torch.arange(length, dtype=dtype or torch.get_default_dtype(), device=device) * step
    first = b * turn.cos()
    return c * (2 * turn).cos() - first + a if c else a - first


def _hamming(length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, **made: Any) -> torch.Tensor:
    """alpha − beta·cos(t)."""
    return _cosine_window((alpha, beta, 0.0), length, periodic, **made)


_hann = functools.partial(_cosine_window, (0.5, 0.5, 0.0))

_blackman = functools.partial(_cosine_window, (0.42, 0.5, 0.08))

LOWERINGS: dict[Any, Lowering] = {
    aten.full.default: full, aten.zeros.default: constant_fill(0), aten.ones.default: constant_fill(1),
    aten.empty.memory_format: constant_fill(0), aten.empty_strided.default: constant_fill(0),
    aten.zeros_like.default: like(0), aten.ones_like.default: like(1), aten.empty_like.default: like(0),
    aten.full_like.default: full_like, aten.new_full.default: new_full, aten.new_zeros.default: new_fill(0),
    aten.new_ones.default: new_fill(1), aten.new_empty.default: new_fill(0),
    aten.new_empty_strided.default: new_fill(0),
    aten.arange.default: arange, aten.arange.start: arange, aten.arange.start_step: arange,
    aten.scalar_tensor.default: scalar_tensor, torch.ops.prims.iota.default: iota,
}  # fmt: skip

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten._efficientzerotensor.default: _zero_tangent,
    aten._new_zeros_with_same_feature_meta.default: _zeros_like_feature,
    # PyTorch 2.11 has no rule for cosine windows, and ONNX's `HammingWindow` has other numbers.
    aten.hann_window.default: _hann,
    aten.hann_window.periodic: _hann,
    aten.hamming_window.default: _hamming,
    aten.hamming_window.periodic: _hamming,
    aten.hamming_window.periodic_alpha: _hamming,
    aten.hamming_window.periodic_alpha_beta: _hamming,
    aten.blackman_window.default: _blackman,
    aten.blackman_window.periodic: _blackman,
}
