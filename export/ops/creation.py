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
"""Elements up to which a filled tensor is stored in the file; larger ones are made at run time."""


def _filled(g: Builder, node: Node, sizes: Sequence[Any], value: Any, like: Node | None = None) -> ir.Value:
    """Return a tensor filled with one value, of the shape of `like` if that is given."""
    dtype = node_dtype(node)

    def shape() -> ir.Value:
        return g.ints(sizes) if like is None else g.runtime_shape(like)

    if isinstance(value, Node):
        return g.op("Expand", g.tensor(value, dtype), shape())
    fixed = [g.static(size) for size in sizes]
    if None not in fixed:
        known = [size for size in fixed if size is not None]
        if torch.Size(known).numel() <= _MAX_STORED_ELEMENTS:
            return g.tensor_constant(torch.full(known, value, dtype=dtype))
    content = to_ir_tensor(torch.full((1,), value, dtype=dtype), "value")
    return g.op("ConstantOfShape", shape(), dtype=dtype, value=ir.AttrTensor("value", content))


def full(g: Builder, node: Node, size: Sequence[Any], value: Any, **_: Any) -> ir.Value:
    """Lower `torch.full`."""
    return _filled(g, node, size, value)


def constant_fill(value: float) -> Lowering:
    """Lower `zeros` and `ones`, and `empty` as zeros; ONNX has no strides."""

    def rule(g: Builder, node: Node, size: Sequence[Any], *_: Any, **__: Any) -> ir.Value:
        return _filled(g, node, size, value)

    return rule


def full_like(g: Builder, node: Node, x: Any, value: Any, **_: Any) -> ir.Value:
    """Lower `torch.full_like`."""
    return _filled(g, node, g.shape_of(x), value, x)


def constant_like(value: float) -> Lowering:
    """Lower `zeros_like` and `ones_like`, and `empty_like` as zeros."""

    def rule(g: Builder, node: Node, x: Any, *_: Any, **__: Any) -> ir.Value:
        return full_like(g, node, x, value)

    return rule


def new_full(g: Builder, node: Node, x: Any, size: Sequence[Any], value: Any, **_: Any) -> ir.Value:
    """Lower `x.new_full`."""
    return _filled(g, node, size, value)


def new_fill(value: float) -> Lowering:
    """Lower `x.new_zeros` and `x.new_ones`, and `x.new_empty` as zeros; ONNX has no strides."""

    def rule(g: Builder, node: Node, x: Any, size: Sequence[Any], *_: Any, **__: Any) -> ir.Value:
        return _filled(g, node, size, value)

    return rule


def arange(g: Builder, node: Node, start: Any, end: Any = None, step: Any = 1, **_: Any) -> ir.Value:
    """Return a range, as a constant if its ends are numbers."""
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
    """Return a number as a tensor."""
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
    """Return a zero tangent as plain zeros; PyTorch's marked tensor can have neither symbolic sizes nor a device."""
    with zero_tangent():
        return torch.zeros((), dtype=dtype, device=device).expand(size)


def _zeros_like_feature(x: torch.Tensor, other: torch.Tensor, *, self_num_batch_dims: int = 0) -> torch.Tensor:
    """Return zeros with the batch axes of `x`, followed by the axes of `other`."""
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
    """a − b·cos(t) + c·cos(2t), t from 0 to 2π in `length` steps, or one fewer if not periodic."""
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
    aten.zeros_like.default: constant_like(0), aten.ones_like.default: constant_like(1),
    aten.empty_like.default: constant_like(0), aten.full_like.default: full_like,
    aten.new_full.default: new_full, aten.new_zeros.default: new_fill(0), aten.new_ones.default: new_fill(1),
    aten.new_empty.default: new_fill(0), aten.new_empty_strided.default: new_fill(0),
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
