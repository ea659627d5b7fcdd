"""Orders of a graph's nodes that free memory early.

ONNX Runtime runs nodes by a depth-first search from the outputs, which puts off what nothing else reads: the gradients
with respect to all weights come last, and every activation and every gradient that they are made of stays alive. The
order in which a function computes, forwards and then backwards, layer by layer, needs half of that.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import onnx

from export.footprint.graph_values import GraphValues
from export.footprint.lifetimes import lifetimes, peak, reads

__all__ = ["early_free_order", "recorded_order"]


def early_free_order(
    nodes: Sequence[onnx.NodeProto], recorded: Mapping[str, int], values: GraphValues, threads: int
) -> tuple[list[onnx.NodeProto], int, int]:
    """Choose the order with the smaller peak: the recorded one, or ONNX Runtime's own.

    Args:
        nodes: the nodes in the order in which ONNX Runtime would run them.
        recorded: {value: its position in the function's own order}.
        values: the graph's values.
        threads: how many threads the session has.

    Returns:
        the order, its peak in bytes, and the peak of the order that was given.
    """
    given, own = list(nodes), recorded_order(nodes, recorded)
    before, after = (peak(lifetimes(order, values, threads)) for order in (given, own))
    return (own, after, before) if after < before else (given, before, before)


def recorded_order(nodes: Sequence[onnx.NodeProto], recorded: Mapping[str, int]) -> list[onnx.NodeProto]:
    """Order nodes as a function was recorded; nodes that are new since come right before what reads them.

    >>> from onnx.helper import make_node
    >>> nodes = [make_node("Neg", ["x"], ["b"]), make_node("Abs", ["x"], ["a"]), make_node("Add", ["a", "b"], ["c"])]
    >>> [node.output[0] for node in recorded_order(nodes, {"a": 0, "b": 1, "c": 2})]
    ['a', 'b', 'c']
    """
    maker = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    before = [{maker[name] for name in reads(node) if name in maker} for node in nodes]
    after: list[list[int]] = [[] for _ in nodes]
    for i, needed in enumerate(before):
        for j in needed:
            after[j].append(i)
    rank = [0] * len(nodes)
    for i in reversed(range(len(nodes))):
        known = [recorded[name] for name in nodes[i].output if name in recorded]
        rank[i] = min(known or [rank[j] for j in after[i]], default=0)
    waiting = [len(needed) for needed in before]
    ready = [(rank[i], i) for i, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, i = heapq.heappop(ready)
        order.append(nodes[i])
        for j in after[i]:
            waiting[j] -= 1
            if not waiting[j]:
                heapq.heappush(ready, (rank[j], j))
    return order
