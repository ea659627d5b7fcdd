"""Values spread over a shape as late as possible: where another operand has that shape, not at all.

The gradient of a mean is the same number for a whole row: PyTorch spreads it, divides, and adds it to a gradient.
"""

from __future__ import annotations

from export.compiler.rewriting.static_graph import Op, StaticGraph

__all__ = ["delay_expands"]

_BINARY = frozenset({"Add", "Div", "Mul", "Sub"})
"""Operators that spread an operand themselves."""

_UNARY = frozenset({"Neg"})
"""Operators that compute each element from the one at its place."""


def delay_expands(graph: StaticGraph) -> None:
    """Compute with numbers and signs before a value is spread, and leave it to sums and products to spread it."""
    makers, readers = graph.makers(), graph.readers()
    ops: list[Op] = []
    for op in graph.ops:
        ops.append(op)
        for name in dict.fromkeys(op.inputs):
            spread = makers.get(name)
            if spread is None or spread.kind != "Expand" or op.kind not in _BINARY | _UNARY or not op.outputs:
                continue
            source, made = spread.inputs[0], op.outputs[0]
            shapes = [graph.shapes.get(value) for value in (source, name, made)]
            if None in shapes or shapes[1] != shapes[2]:
                continue
            others = [value for value in op.inputs if value != name]
            if any(graph.shapes.get(value) == shapes[1] for value in others):
                op.inputs = [source if value == name else value for value in op.inputs]
            elif len(readers[name]) == 1 and graph.is_private(made) and _are_numbers(graph, others, source):
                op.inputs = [source if value == name else value for value in op.inputs]
                op.outputs[0] = graph.name_for(f"{made}.narrow")
                graph.note(op.outputs[0], graph.shapes[source], graph.kinds[made])
                ops.append(Op("Expand", [op.outputs[0], *spread.inputs[1:]], [made], {}))
                makers[made] = ops[-1]
    graph.ops = ops
    graph.sweep()


def _are_numbers(graph: StaticGraph, names: list[str], beside: str) -> bool:
    """Whether values are stored numbers that change no shape beside another value."""
    values = [graph.constant(name) for name in names]
    return all(value is not None and value.size == 1 and value.ndim <= len(graph.shapes[beside]) for value in values)
