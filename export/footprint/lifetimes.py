"""From an order of nodes to the bytes alive at each of them, as ONNX Runtime allocates and frees.

A session allocates a node's results before the node runs, and frees a value after its last reader; views share their
input's memory, and some operators write over an input that nothing else reads (`export.footprint.kernel_memory`).
Sessions here neither plan a pattern of memory nor keep dead buffers for later values of the same shape.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import onnx

from export.footprint.graph_values import GraphValues, graph_values
from export.footprint.kernel_memory import IN_PLACE, VIEWS, workspace
from export.graph.functions.function_bodies import branches

__all__ = ["Step", "alive_at", "lifetimes", "peak", "reads"]


@dataclasses.dataclass(frozen=True)
class Step:
    """What happens to memory while one node runs.

    Attributes:
        node: the node.
        made: {value: bytes} of the results that get memory of their own.
        workspace: bytes that the kernel takes for itself meanwhile; for a branch or a loop the peak of its body.
        live: bytes alive while it runs, the workspace included.
        freed: values whose memory is freed after it.
    """

    node: onnx.NodeProto
    made: dict[str, int]
    workspace: int
    live: int
    freed: tuple[str, ...]


def reads(node: onnx.NodeProto) -> list[str]:
    """Return the values that a node reads, those read inside its branches or its body included."""
    found = [name for name in node.input if name]
    for graph in branches(node):
        found += [name for inner in graph.node for name in reads(inner)]
        found += [value.name for value in graph.output]
    return found


def lifetimes(
    order: Sequence[onnx.NodeProto], values: GraphValues, threads: int, sizes: Mapping[str, int] | None = None
) -> list[Step]:
    """Follow a graph's nodes in an order.

    Args:
        order: the nodes, in the order in which they run.
        values: the graph's values.
        threads: how many threads the session has.
        sizes: numbers for the names of sizes, for the graphs inside nodes.
    """
    wanted = [reads(node) for node in order]
    left = Counter(name for names in wanted for name in names)
    left.update(values.outputs)  # an output is never freed
    place = {name: "" for name in values.given}  # {value: the value whose memory it lies in}, "" for memory of others
    users: Counter[str] = Counter()
    held: dict[str, int] = {}
    live, steps = 0, []
    for node, names in zip(order, wanted, strict=True):
        made: dict[str, int] = {}
        for name in filter(None, node.output):
            below = _shared(node, name, values, place, left, users)
            if below is None:
                made[name] = held[name] = values.bytes.get(name, 0)
                place[name] = name
            else:
                place[name] = below
            users[place[name]] += left[name]
        live += sum(made.values())
        extra = workspace(node, values.shapes, threads) + _inside(node, threads, sizes)
        freed = [name for name in made if not users[name]]
        now = live + extra
        for name in names:
            left[name] -= 1
            below = place.get(name, "")
            if below:
                users[below] -= 1
                if not users[below]:
                    freed.append(below)
        live -= sum(held.pop(name) for name in freed)
        steps.append(Step(node, made, extra, now, tuple(freed)))
    return steps


def peak(steps: Sequence[Step]) -> int:
    """Return the largest number of bytes alive at once."""
    return max((step.live for step in steps), default=0)


def alive_at(steps: Sequence[Step], position: int) -> dict[str, int]:
    """Return {value: bytes} of what is alive while one node runs."""
    found: dict[str, int] = {}
    for i, step in enumerate(steps[: position + 1]):
        found.update(step.made)
        if i < position:
            for name in step.freed:
                del found[name]
    return found


def _shared(
    node: onnx.NodeProto,
    output: str,
    values: GraphValues,
    place: Mapping[str, str],
    left: Counter[str],
    users: Counter[str],
) -> str | None:
    """Return whose memory a node's result lies in, None where it gets memory of its own."""
    if output in values.outputs or output != node.output[0] or not node.input or node.domain not in ("", "ai.onnx"):
        return None
    source = node.input[0]
    below = place.get(source, "")
    if node.op_type in VIEWS:
        return below
    alone = below and left[source] == users[below] == 1
    return below if alone and node.op_type in IN_PLACE and _alike(source, output, values) else None


def _alike(source: str, output: str, values: GraphValues) -> bool:
    """Tell whether ONNX Runtime sees that two values are of one size: names of sizes must agree as they are written."""
    shapes = values.declared.get(source, (None,)), values.declared.get(output, ())
    return None not in shapes[0] and shapes[0] == shapes[1] and values.bytes.get(source) == values.bytes.get(output)


def _inside(node: onnx.NodeProto, threads: int, sizes: Mapping[str, int] | None) -> int:
    """Return the peak of a node's branches, of which one runs, or of its body."""
    found = [lifetimes(graph.node, graph_values(graph, sizes), threads, sizes) for graph in branches(node)]
    return max(map(peak, found), default=0)
