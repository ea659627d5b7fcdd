"""Padding with a constant, by reflection and by replication."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import Builder, Lowering, node_dtype
from export.ops.shared.axis_maps import axis_matrices, fixed_sizes, times_matrices

__all__ = ["LOWERINGS"]

aten: Any = torch.ops.aten


def constant_pad(g: Builder, node: Node, x: Any, pad: Sequence[Any], value: Any = 0) -> ir.Value:
    """Pad with a constant; negative amounts crop. PyTorch counts from the last axis."""
    return padded(g, node, x, pad, "constant", g.constant(value, node_dtype(node)))


def padded(g: Builder, node: Node, x: Any, pad: Sequence[Any], mode: str, fill: ir.Value | None = None) -> ir.Value:
    """Pad the last axes: ONNX lists all amounts at the front, then all at the end."""
    rank = len(g.shape_of(x))
    front: list[Any] = [0] * rank
    back: list[Any] = [0] * rank
    for i in range(len(pad) // 2):
        front[rank - 1 - i], back[rank - 1 - i] = pad[2 * i], pad[2 * i + 1]
    value = g.tensor(x)
    dtype = g.dtypes[value]
    if dtype == torch.bool:
        value, fill = g.cast(value, torch.int32), g.cast(fill, torch.int32) if fill is not None else None
    return g.cast(g.op("Pad", value, g.ints([*front, *back]), fill, mode=mode), dtype)


def mode_pad(mode: str) -> Lowering:
    """Lower reflection and replication padding."""

    def rule(g: Builder, node: Node, x: Any, pad: Sequence[Any]) -> ir.Value:
        return padded(g, node, x, pad, mode)

    return rule


def replicate_backward(rank: int) -> Lowering:
    """Lower `replication_pad…_backward`; PyTorch lists the amounts from the last axis."""

    def rule(g: Builder, node: Node, grad: Any, x: Any, pad: Sequence[int]) -> ir.Value:
        inner, outer = (fixed_sizes(g, g.shape_of(arg)[-rank:]) for arg in (x, grad))

        def apply(image: torch.Tensor, axis: int, sizes: list[int]) -> torch.Tensor:
            own = [amount if i // 2 == rank - 1 - axis else 0 for i, amount in enumerate(pad)]
            return torch.nn.functional.pad(image, own, mode="replicate")

        factors = [matrix.mT for matrix in axis_matrices(apply, inner, outer)]
        return times_matrices(g, g.tensor(grad), rank, len(g.shape_of(grad)), factors)

    return rule


LOWERINGS: dict[Any, Lowering] = {
    aten.constant_pad_nd.default: constant_pad,
    aten.reflection_pad1d.default: mode_pad("reflect"),
    aten.reflection_pad2d.default: mode_pad("reflect"),
    aten.reflection_pad3d.default: mode_pad("reflect"),
    aten.replication_pad1d.default: mode_pad("edge"),
    aten.replication_pad2d.default: mode_pad("edge"),
    aten.replication_pad3d.default: mode_pad("edge"),
    aten.replication_pad1d_backward.default: replicate_backward(1),
    aten.replication_pad2d_backward.default: replicate_backward(2),
    aten.replication_pad3d_backward.default: replicate_backward(3),
}
