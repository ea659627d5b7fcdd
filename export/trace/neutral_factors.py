"""Factors of one, which PyTorch's batching rules and derivatives put in: products with them are removed.

A batched `addmm` multiplies its bias by beta; the second derivative of a square has x⁰, which is one for every x.
Files for CUDA keep them: which of their nodes run where is on record, file by file.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from export.trace.purity import graphs
from export.trace.zero_tangents import recorded_sizes, recorded_value

__all__ = ["drop_neutral_factors"]

aten: Any = torch.ops.aten

PRODUCTS = frozenset({aten.mul.Tensor, aten.mul.Scalar})


def drop_neutral_factors(graph: GraphModule) -> None:
    """Read the other factor where one is one, in a recording and in the branches and steps inside it."""
    for module in graphs(graph):
        for node in module.graph.nodes:
            if node.target not in PRODUCTS:
                continue
            first, second = node.args[:2]
            kept = first if _is_one(second) else second if _is_one(first) else None
            if isinstance(kept, Node) and _are_alike(kept, node):
                node.replace_all_uses_with(kept)
        module.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))


def _is_one(factor: Any) -> bool:
    """Whether a factor is the number one, or a tensor to the power of zero."""
    if not isinstance(factor, Node):
        return not isinstance(factor, (bool, complex)) and factor == 1
    return bool(factor.target is aten.pow.Tensor_Scalar and factor.args[1] == 0)


def _are_alike(kept: Node, product: Node) -> bool:
    """Whether two nodes have the same dtype and shape."""
    value, result = recorded_value(kept), recorded_value(product)
    if value is None or result is None or value.dtype != result.dtype:
        return False
    return recorded_sizes(value) == recorded_sizes(result)
