"""Variants of a model for a verdict on graphs with ``If``: each branch forced, predicates visible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper


def depth_of(graph: onnx.GraphProto) -> int:
    """Return how deeply ``If`` nodes are nested, those inside loops counted too; 0 without any."""
    inside = ((node.op_type == "If") + max(map(depth_of, _branches(node))) for node in graph.node if _branches(node))
    return max(inside, default=0)


def _branches(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def combinations(depth: int) -> Iterator[tuple[bool, ...]]:
    """Yield the ways to force the branches, one choice a nesting depth; every branch is taken in one of them."""
    for number in range(2 ** min(depth, 4)):
        yield tuple(not number >> i & 1 for i in range(min(depth, 4)))


def forced(model: onnx.ModelProto, choices: Sequence[bool]) -> onnx.ModelProto:
    """Return a copy whose ``If`` nodes at nesting depth d have the constant predicate ``choices[d]``."""
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
    """Names of the outermost predicates, in the order of the graph."""
    return [node.input[0] for node in graph.node if node.op_type == "If"]


def with_outputs(model: onnx.ModelProto, names: Sequence[str], kinds: Sequence[int] | None = None) -> onnx.ModelProto:
    """Return a copy with more values as outputs; ``kinds`` are their element types (boolean by default)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    there = {value.name for value in copy.graph.output}
    for i, name in enumerate(names):
        if name not in there:
            kind = onnx.TensorProto.BOOL if kinds is None else kinds[i]
            copy.graph.output.append(helper.make_tensor_value_info(name, kind, None))
            there.add(name)
    return copy
