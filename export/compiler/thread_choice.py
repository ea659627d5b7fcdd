"""How many threads a compiled function gets: one where handing a part of a node to another takes longer than the part.

ONNX Runtime shares a product of 65,536 multiplications among its threads already. A product of a few microseconds takes
longer then: 32×64 by 64×64 takes 7.0 µs on two threads and 4.0 µs on one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx

from export.footprint.graph_values import GraphValues, graph_values
from export.graph.functions.function_bodies import branches

__all__ = ["ALL_THREADS", "thread_count"]

ALL_THREADS = 0
"""ONNX Runtime's default: one thread for each core."""

MAX_MULTIPLICATIONS_ON_ONE_THREAD = 2**18
"""Multiplications of one product up to which one thread is faster than two."""

MAX_ELEMENTS_ON_ONE_THREAD = 2**14
"""Elements of one value up to which one thread computes them as fast as two."""

_LINEAR = frozenset({"com.microsoft.Gelu", "com.microsoft.FastGelu", "com.microsoft.QuickGelu"})
"""Operators of other domains whose work is that of their results' elements."""

_PRODUCTS = frozenset({"MatMul", "Gemm", "com.microsoft.FusedMatMul", "com.microsoft.FusedGemm"})

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "com.microsoft.FusedConv", "com.microsoft.nchwc.Conv"})

_OF_UNKNOWN_WORK = frozenset({"Attention", "Einsum", "GRU", "LSTM", "RNN", "DeformConv", "Det"})
"""Operators of ONNX's own that multiply more than their results have elements."""


def thread_count(graph: onnx.GraphProto) -> int:
    """Return 1 where every node of a graph is small, else `ALL_THREADS`; the graph declares its values' shapes."""
    return 1 if _is_small(graph, graph_values(graph)) else ALL_THREADS


def _is_small(graph: onnx.GraphProto, values: GraphValues) -> bool:
    return all(
        _is_small_node(node, values)
        and all(_is_small(body, graph_values(body).filled(values)) for body in branches(node))
        for node in graph.node
    )


def _is_small_node(node: onnx.NodeProto, values: GraphValues) -> bool:
    kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    shapes = [values.shapes.get(name) for name in (*node.input, *node.output) if name]
    made = [shape for name in node.output if (shape := values.shapes.get(name)) is not None]
    if None in shapes or kind in _OF_UNKNOWN_WORK:
        return False
    known = [shape for shape in shapes if shape is not None]
    if kind in _PRODUCTS | _CONVOLUTIONS:
        if _multiplications(kind, node, known, made[0]) > MAX_MULTIPLICATIONS_ON_ONE_THREAD:
            return False
    elif node.domain and kind not in _LINEAR:
        return False
    counted = known if kind.startswith(("Arg", "Reduce")) else made
    return all(math.prod(shape) <= MAX_ELEMENTS_ON_ONE_THREAD for shape in counted)


def _multiplications(kind: str, node: onnx.NodeProto, given: Sequence[Sequence[int]], made: Sequence[int]) -> int:
    if kind in _PRODUCTS:
        transposed = any(one.name == "transA" and one.i for one in node.attribute)
        inner = given[0][-2 if transposed and len(given[0]) > 1 else -1]
        return math.prod(made) * inner
    weight = given[1]
    return math.prod(given[0] if kind == "ConvTranspose" else made) * math.prod(weight[1:])
