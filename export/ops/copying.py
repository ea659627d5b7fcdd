"""Copies, casts and detached values: a Cast where the dtype changes, nothing otherwise."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import Builder, Lowering, node_dtype

__all__ = ["LOWERINGS"]

aten: Any = torch.ops.aten


def identity(g: Builder, node: Node, x: Any, *_: Any, **__: Any) -> ir.Value:
    """Cast at most: memory layout, aliasing and detaching have no meaning in ONNX."""
    return g.tensor(x, node_dtype(node))


def copy(g: Builder, node: Node, target: Any, source: Any, *_: Any) -> ir.Value:
    """Return the source, cast and broadcast to the target."""
    value = g.tensor(source, node_dtype(node))
    if list(source.meta["val"].shape) == list(target.meta["val"].shape):
        return value
    return g.op("Expand", value, g.runtime_shape(target))


LOWERINGS: dict[Any, Lowering] = {
    aten.clone.default: identity,
    aten.detach.default: identity,
    aten.alias.default: identity,
    aten.contiguous.default: identity,
    aten.lift_fresh_copy.default: identity,
    aten.lift_fresh.default: identity,
    aten._to_copy.default: identity,
    aten.to.dtype: identity,
    aten.positive.default: identity,
    torch.ops.prims.convert_element_type.default: identity,
    torch.ops.prims.device_put.default: identity,
    aten.copy.default: copy,
}
