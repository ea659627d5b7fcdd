"""Tensors out of nothing: constants where sizes are known, ConstantOfShape and Range where they are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import ONNX_TYPES, Builder, Rule, node_dtype, to_ir_tensor

aten: Any = torch.ops.aten
_SMALL = 1024
"""Up to so many elements a filled tensor is stored; a larger one is made at run time."""


def filled(g: Builder, dtype: torch.dtype, sizes: Sequence[Any], value: Any) -> ir.Value:
    """A tensor of one value."""
    fixed = [g.static(size) for size in sizes]
    if isinstance(value, Node):
        return g.op("Expand", g.tensor(value, dtype), g.ints(sizes))
    if None not in fixed:
        known = [size for size in fixed if size is not None]
        if torch.Size(known).numel() <= _SMALL:
            return g.tensor_constant(torch.full(known, value, dtype=dtype))
    content = to_ir_tensor(torch.full((1,), value, dtype=dtype), "value")
    return g.op("ConstantOfShape", g.ints(sizes), dtype=dtype, value=ir.AttrTensor("value", content))


def full(g: Builder, node: Node, size: Sequence[Any], value: Any, **_: Any) -> ir.Value:
    """``torch.full``."""
    return filled(g, node_dtype(node), size, value)


def constant_fill(value: float) -> Rule:
    """zeros, ones and empty (of which zeros is one possible content)."""

    def rule(g: Builder, node: Node, size: Sequence[Any], *_: Any, **__: Any) -> ir.Value:
        return filled(g, node_dtype(node), size, value)

    return rule


def like(value: float) -> Rule:
    """zeros_like, ones_like, empty_like."""

    def rule(g: Builder, node: Node, x: Any, *_: Any, **__: Any) -> ir.Value:
        return _like(g, node, x, value)

    return rule


def full_like(g: Builder, node: Node, x: Any, value: Any, **_: Any) -> ir.Value:
    """``torch.full_like``."""
    return _like(g, node, x, value)


def _like(g: Builder, node: Node, x: Any, value: Any) -> ir.Value:
    dtype = node_dtype(node)
    shape = g.shape_of(x)
    if isinstance(value, Node) or None not in [g.static(size) for size in shape]:
        return (
            filled(g, dtype, shape, value)
            if not isinstance(value, Node)
            else g.op("Expand", g.tensor(value, dtype), g.runtime_shape(x))
        )
    content = to_ir_tensor(torch.full((1,), value, dtype=dtype), "value")
    return g.op("ConstantOfShape", g.runtime_shape(x), dtype=dtype, value=ir.AttrTensor("value", content))


def new_full(g: Builder, node: Node, x: Any, size: Sequence[Any], value: Any, **_: Any) -> ir.Value:
    """``x.new_full``."""
    return filled(g, node_dtype(node), size, value)


def new_fill(value: float) -> Rule:
    """new_zeros, new_ones, new_empty."""

    def rule(g: Builder, node: Node, x: Any, size: Sequence[Any], **_: Any) -> ir.Value:
        return filled(g, node_dtype(node), size, value)

    return rule


def new_strided(g: Builder, node: Node, x: Any, size: Sequence[Any], stride: Any, **_: Any) -> ir.Value:
    """``x.new_empty_strided``: strides have no meaning in ONNX."""
    return filled(g, node_dtype(node), size, 0)


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
    """``prims.iota``: start, start + step, …, ``length`` of them."""
    dtype = node_dtype(node)
    fixed = g.static(length)
    if fixed is not None:
        return g.tensor_constant(torch.arange(fixed, dtype=dtype) * step + start)
    count = g.op("Range", g.constant(0), g.tensor(length), g.constant(1), dtype=torch.int64)
    return g.cast(g.op("Add", g.op("Mul", count, g.constant(step)), g.constant(start)), dtype)


TABLE: dict[Any, Rule] = {
    aten.full.default: full, aten.zeros.default: constant_fill(0), aten.ones.default: constant_fill(1),
    aten.empty.memory_format: constant_fill(0), aten.empty_strided.default: constant_fill(0),
    aten.zeros_like.default: like(0), aten.ones_like.default: like(1), aten.empty_like.default: like(0),
    aten.full_like.default: full_like, aten.new_full.default: new_full, aten.new_zeros.default: new_fill(0),
    aten.new_ones.default: new_fill(1), aten.new_empty.default: new_fill(0),
    aten.new_empty_strided.default: new_strided,
    aten.arange.default: arange, aten.arange.start: arange, aten.arange.start_step: arange,
    aten.scalar_tensor.default: scalar_tensor, torch.ops.prims.iota.default: iota,
}  # fmt: skip
"""Tensors out of nothing."""

__all__ = ["ONNX_TYPES", "TABLE", "filled"]
