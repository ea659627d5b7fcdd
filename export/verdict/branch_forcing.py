"""Variants of a model for a verdict on graphs with `If`: each branch forced, inner values visible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["combinations", "depth_of", "forced", "predicates", "with_outputs"]

MAX_FORCED_DEPTH = 4
"""Nesting depth of `If` down to which every combination of branches is forced; deeper ones follow the last."""


def depth_of(graph: onnx.GraphProto) -> int:
    """Return how deeply `If` nodes are nested, those inside loops counted too; 0 without any."""
    inside = ((node.op_type == "If") + max(map(depth_of, _branches(node))) for node in graph.node if _branches(node))
    return max(inside, default=0)


def _branches(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def combinations(depth: int) -> Iterator[tuple[bool, ...]]:
    """Yield the ways to force the branches, one choice a nesting depth; every branch is taken in one of them."""
    for number in range(2 ** (levels := min(depth, MAX_FORCED_DEPTH))):
        yield tuple(not number >> i & 1 for i in range(levels))


def forced(model: onnx.ModelProto, choices: Sequence[bool]) -> onnx.ModelProto:
    """Return a copy whose `If` nodes at nesting depth d have the constant predicate `choices[d]`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in (True, False):
        copy.graph.initializer.append(numpy_helper.from_array(np.array(value), f"forced.{value}"))
    _force(copy.graph, choices, 0)
    return copy


def _force(graph: onnx.GraphProto, choices: Sequence[bool], depth: int) -> None:
    for node in graph.node:
        if node.op_type == "If":
            node.input[0] = f"forced.{choices[min(depth, len(choices) - 1)]}"
        for branch in _branches(node):
            _force(branch, choices, depth + (node.op_type == "If"))


def predicates(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the outermost predicates, in the order of the graph."""
    return [node.input[0] for node in graph.node if node.op_type == "If"]


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy with more values as outputs; those of unknown element type are taken as boolean."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
    for name in dict.fromkeys(names):
        if name not in {value.name for value in copy.graph.output}:
            kind = types.get(name, onnx.TensorProto.BOOL)
            copy.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    return copy
