"""Reshapes: fewer of them, where what lies between two is the same on rows."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator

from export.compiler.rewriting.static_graph import Op, StaticGraph

__all__ = ["VIEWS", "fold_leading_axes", "merge_views", "return_bases", "view"]

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})
"""Operators that give the same values another shape."""

_MAPS = frozenset(
    {"Abs", "Add", "Cast", "Cos", "Div", "Equal", "Erf", "Exp", "Gelu", "Greater", "GreaterOrEqual", "Less"}
    | {"LessOrEqual", "Log", "Mul", "Neg", "Not", "Pow", "Reciprocal", "Relu", "Sigmoid", "Sign", "Sin", "Sqrt"}
    | {"Sub", "Tanh", "Where", "com.microsoft.Gelu", "com.microsoft.FastGelu", "com.microsoft.QuickGelu"}
)
"""Operators that compute each element from those at its place."""

_ALONG_AXIS = frozenset({"LayerNormalization", "Softmax"})
"""Operators along the axis that an attribute names."""

_REDUCTIONS = frozenset({"ReduceMax", "ReduceMean", "ReduceSum"})
"""Operators over the axes that their second input lists."""

Shape = tuple[int, ...]


def fold_leading_axes(graph: StaticGraph) -> None:
    """Compute on (rows, last axis) what stands between products of matrices, where that saves reshapes.

    A chain of elementwise operators, reductions along the last axis and the like has the same values on a matrix whose
    rows are all leading axes together. Chains are looked at as a whole: one is rewritten if fewer reshapes remain.
    """
    makers, readers = graph.makers(), graph.readers()
    foldable = {id(op): op for op in graph.ops if _is_foldable(graph, op)}
    parent = {key: key for key in foldable}

    def root(key: int) -> int:
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    for op in foldable.values():
        for name in op.inputs:
            maker = makers.get(name)
            if maker is not None and id(maker) in foldable and _is_long(graph, name):
                parent[root(id(maker))] = root(id(op))
    saved: Counter[int] = Counter()
    members: dict[int, set[str]] = defaultdict(set)
    for key, op in foldable.items():
        members[root(key)].update(name for name in (*op.inputs, *op.outputs) if _is_long(graph, name))
    for chain, names in members.items():
        saved[chain] = sum(_saving(graph, name, makers, readers, foldable) for name in names)
    for key, op in foldable.items():
        if op.kind == "Add":
            saved[root(key)] += any(_is_product(graph, name, makers, readers) for name in op.inputs)
    chosen = {key for key in foldable if saved[root(key)] > 0}
    if not chosen:
        return
    ops: list[Op] = []
    folded: dict[str, str] = {}
    for op in graph.ops:
        if id(op) in chosen:
            ops += _fold(graph, op, folded)
        else:
            ops.append(op)
    graph.ops = ops
    merge_views(graph)


def _is_long(graph: StaticGraph, name: str) -> bool:
    """Whether a value has leading axes to be folded."""
    return len(graph.shapes.get(name, ())) > 2


def _rows(shape: Shape) -> Shape:
    return math.prod(shape[:-1]), shape[-1]


def _is_foldable(graph: StaticGraph, op: Op) -> bool:
    """Whether a node computes the same on rows."""
    if op.kind not in _MAPS | _ALONG_AXIS | _REDUCTIONS or any(name not in graph.shapes for name in op.outputs):
        return False
    if any(name and name not in graph.shapes for name in op.inputs) or not graph.is_private(op.outputs[0]):
        return False
    read = op.inputs[:1] if op.kind in _REDUCTIONS else [name for name in op.inputs if name]
    shape = graph.shapes[op.outputs[0]]
    rank, lead = len(shape), shape[:-1]
    if rank < 3 or 0 in shape:
        return False
    if op.kind in _ALONG_AXIS and op.attributes.get("axis", -1) not in (-1, rank - 1):
        return False
    if op.kind in _REDUCTIONS:
        axes = graph.constant(op.inputs[1]) if len(op.inputs) > 1 else None
        if axes is None or axes.tolist() not in ([-1], [rank - 1]) or not op.attributes.get("keepdims", 1):
            return False
    for name in read:
        given = graph.shapes[name]
        own = (1,) * (rank - len(given)) + given
        if own[:-1] != lead and (math.prod(own[:-1]) != 1 or len(given) > 2):
            return False
    return True


def _saving(
    graph: StaticGraph, name: str, makers: dict[str, Op], readers: dict[str, list[Op]], foldable: dict[int, Op]
) -> int:
    """Return how many reshapes fewer there are if all foldable nodes read and make a value as rows."""
    rows = _rows(graph.shapes[name])
    maker, users = makers.get(name), readers.get(name, [])
    others = [op for op in users if id(op) not in foldable]
    if maker is not None and id(maker) in foldable:
        views = [op for op in others if op.kind in VIEWS]
        gained = sum(graph.shapes.get(op.outputs[0]) == rows and graph.is_private(op.outputs[0]) for op in views)
        return gained - (len(views) < len(others))
    if maker is not None and maker.kind in VIEWS:
        freed = not others and graph.is_private(name)
        return freed - (graph.shapes.get(maker.inputs[0]) != rows)
    return -1


def _is_product(graph: StaticGraph, name: str, makers: dict[str, Op], readers: dict[str, list[Op]]) -> bool:
    """Whether a value is a product's rows under another shape, so that a sum on rows could be inside the product."""
    maker = makers.get(name)
    if maker is None or maker.kind != "Reshape" or len(readers[name]) > 1 or not graph.is_private(name):
        return False
    rows = makers.get(maker.inputs[0])
    return rows is not None and rows.kind == "Gemm" and len(rows.inputs) < 3 and len(readers[maker.inputs[0]]) == 1


def _fold(graph: StaticGraph, op: Op, folded: dict[str, str]) -> Iterator[Op]:
    """Yield a node on rows, with the reshapes that it needs before and behind."""
    reduced = op.kind in _REDUCTIONS
    for position, name in enumerate(op.inputs[:1] if reduced else op.inputs):
        if name and name not in folded and _is_long(graph, name):
            folded[name] = graph.name_for(f"{name}.rows")
            yield view(graph, name, folded[name], _rows(graph.shapes[name]))
        op.inputs[position] = folded.get(name, name)
    if reduced:
        op.inputs[1] = graph.stored_integers([1])
    elif op.kind in _ALONG_AXIS:
        op.attributes["axis"] = -1
    originals = list(op.outputs)
    for position, name in enumerate(originals):
        if name and _is_long(graph, name):
            folded[name] = op.outputs[position] = graph.name_for(f"{name}.rows")
            graph.note(folded[name], _rows(graph.shapes[name]), graph.kinds[name])
    yield op
    for original, name in zip(originals, op.outputs, strict=True):
        if original != name:
            yield view(graph, name, original, graph.shapes[original])


def view(graph: StaticGraph, name: str, made: str, shape: Shape) -> Op:
    """Return a reshape of a value."""
    graph.note(made, shape, graph.kinds[name])
    return Op("Reshape", [name, graph.stored_integers(shape)], [made], {})


def return_bases(graph: StaticGraph) -> None:
    """Return a value itself where a view of it is an output, which ONNX Runtime would copy; the caller reshapes it."""
    makers, readers = graph.makers(), graph.readers()
    instead: dict[str, str] = {}
    for op in graph.ops:
        name = op.outputs[0]
        if name not in graph.outputs or name in readers or graph.is_read_inside(name) or not _is_view(graph, op):
            continue
        base = op.inputs[0]
        maker = makers.get(base)
        if maker is None or base in instead or not graph.is_private(base):
            continue
        maker.outputs = [name if made == base else made for made in maker.outputs]
        op.outputs[0] = ""
        graph.reshape_output(name, graph.shapes[base])
        instead[base] = name
    graph.ops = [op for op in graph.ops if any(op.outputs)]
    graph.replace(instead)


def _is_view(graph: StaticGraph, op: Op) -> bool:
    """Whether a node gives the same values, in the same order, another shape."""
    if op.kind not in VIEWS | {"Transpose"} or any(name not in graph.shapes for name in (op.inputs[0], op.outputs[0])):
        return False
    if op.kind != "Transpose":
        return True
    shape = graph.shapes[op.inputs[0]]
    moved = [axis for axis in op.attributes.get("perm", range(len(shape))[::-1]) if shape[axis] > 1]
    return moved == sorted(moved)


def merge_views(graph: StaticGraph) -> None:
    """Leave out views that nothing reads or that change nothing, and have others read the value itself."""
    source: dict[str, str] = {}  # {view: the value that it is a view of}
    same: dict[tuple[str, Shape], str] = {}
    instead: dict[str, str] = {}
    ops: list[Op] = []
    for op in graph.ops:
        op.inputs = [instead.get(name, name) for name in op.inputs]
        if not _is_view(graph, op):
            ops.append(op)
            continue
        made = op.outputs[0]
        base = source.get(op.inputs[0], op.inputs[0])
        shape = graph.shapes[made]
        known = base if graph.shapes[base] == shape else same.get((base, shape))
        if known is not None and graph.is_private(made):
            instead[made] = known
            continue
        source[made] = base
        if graph.is_private(made):
            same[base, shape] = made
        if base != op.inputs[0] or op.kind == "Transpose":
            op = view(graph, base, made, shape)
        ops.append(op)
    graph.ops = ops
    graph.sweep()
