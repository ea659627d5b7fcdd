"""Which recorded operators and ONNX nodes decide by value, and where the answer to each stands in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import torch
from torch.fx import Graph, Node

from export.graph.node_notes import read_notes

__all__ = [
    "COMPARISONS",
    "JUMPS",
    "PICKS",
    "POOLS",
    "REARRANGING",
    "along_picked_axis",
    "decision_values",
    "has_decisions",
]

aten: Any = torch.ops.aten

COMPARISONS = frozenset(
    getattr(getattr(aten, name), kind) for name in ("gt", "ge", "lt", "le", "eq", "ne") for kind in ("Tensor", "Scalar")
)

JUMPS: dict[Any, Callable[[torch.Tensor], torch.Tensor]] = {
    aten.sign.default: lambda x: x,
    aten.sgn.default: lambda x: x,
    aten.floor.default: lambda x: x - x.round(),
    aten.ceil.default: lambda x: x - x.round(),
    aten.trunc.default: lambda x: x - x.round(),
    aten.round.default: lambda x: x - x.floor() - 0.5,
}
"""Functions of one number that jump: the distance from the nearest jump."""

POOLS = {aten.max_pool2d_with_indices.default: 2, aten.max_pool3d_with_indices.default: 3}
"""Max pooling, with the number of axes that it pools over."""

PICKS = frozenset(
    {
        *(aten.max.dim, aten.min.dim, aten.argmax.default, aten.argmin.default),
        *(aten.topk.default, aten.sort.default, aten.sort.stable),
    }
)
"""Operators that pick positions by value."""

REARRANGING = frozenset(
    {
        *(aten.alias.default, aten.detach.default, aten.clone.default, aten.permute.default, aten.transpose.int),
        *(aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.unsqueeze.default),
        *(aten.squeeze.dim, aten.squeeze.dims, aten.expand.default, aten.slice.Tensor, aten.select.int),
    }
)
"""Operators whose result holds values of their first argument, so that what is known of those holds for it."""

_ONNX_DECISIONS = frozenset(
    {"Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "Sign", "Floor", "Ceil", "Round"}
    | {"ArgMax", "ArgMin", "TopK"}
)


def has_decisions(model: onnx.ModelProto) -> bool:
    """Tell whether a file has a node whose result jumps."""
    return any(
        node.op_type in _ONNX_DECISIONS or (node.op_type == "MaxPool" and len(node.output) > 1)
        for node in model.graph.node
    )


def decision_values(model: onnx.ModelProto, graph: Graph) -> dict[str, str]:
    """Return {recorded operation that decides: name of its decision among the file's values}."""
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
    deciding = {node.name: node.target for node in graph.nodes if _decides(node)}
    found: dict[str, str] = {}
    for node in model.graph.node:
        origin = read_notes(node).get("fx", "")
        if origin not in deciding:
            continue
        picks = deciding[origin] in PICKS or deciding[origin] in POOLS
        for name in node.output:
            if name in types and (not picks or types[name] == onnx.TensorProto.INT64):
                found[origin] = name
    return found


def _decides(node: Node) -> bool:
    return node.op == "call_function" and (
        node.target in COMPARISONS or node.target in JUMPS or node.target in POOLS or node.target in PICKS
    )


def along_picked_axis(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return values, positions and the axis along which `gather` fetches what an operator picked."""
    x = args[0]
    if target in POOLS:
        lead = x.dim() - POOLS[target]
        return x.flatten(lead), positions.flatten(lead), lead
    spot = 2 if target is aten.topk.default else 1
    default = None if target in (aten.argmax.default, aten.argmin.default) else -1
    dim = kwargs.get("dim", args[spot] if len(args) > spot else default)
    if dim is None:
        return x.flatten(), positions.reshape(1), 0
    return x, positions if positions.dim() == x.dim() else positions.unsqueeze(dim), dim % x.dim()
