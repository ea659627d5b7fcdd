"""Copies, casts, detached values and copies of views: a Cast where the dtype changes, nothing otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import Builder, Lowering, node_dtype

__all__ = ["DECOMPOSITIONS", "LOWERINGS"]

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


def _permute_copy(x: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    return x.permute(tuple(dims)).clone()


def _narrow_copy(x: torch.Tensor, dim: int, start: Any, length: Any) -> torch.Tensor:
    return x.narrow(dim, start, length).clone()


def _unbind_copy(x: torch.Tensor, dim: int = 0) -> list[torch.Tensor]:
    return [part.clone() for part in x.unbind(dim)]


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

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.permute_copy.default: _permute_copy,
    aten.narrow_copy.default: _narrow_copy,
    aten.unbind_copy.int: _unbind_copy,
}
