"""Products of many small matrices: factors and transposed operands computed by the product.

ONNX Runtime's optimiser does so where they stand next to each other. A reshape that joins the axes of a batch stands
between them wherever attention, or a mapped function, was written in PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx

from export.compiler.rewriting.product_sums import scalar_factor
from export.compiler.rewriting.static_graph import Op, StaticGraph
from export.compiler.rewriting.views import VIEWS, view

__all__ = ["absorb_operands", "turn_products"]

_FUSED = "com.microsoft.FusedMatMul"
"""A product with a factor, of operands that are transposed or not; of float32."""

_FLAGS = ("transA", "transB")


@dataclass
class _Operand:
    """What a product can read instead of one of its operands.

    Attributes:
        name: the value.
        factor: what it is multiplied by to be the operand.
        transposed: whether its last two axes are exchanged.
        before: nodes that make the value, ahead of the product.
    """

    name: str
    factor: float = 1.0
    transposed: bool = False
    before: list[Op] = field(default_factory=list)


def absorb_operands(graph: StaticGraph) -> None:
    """Have products read transposed and scaled operands as they were before that."""
    makers, readers = graph.makers(), graph.readers()
    transposed: dict[tuple[str, tuple[int, ...]], str] = {}
    ops: list[Op] = []
    for op in graph.ops:
        if _is_batched(graph, op):
            found = [_operand(graph, makers, readers, transposed, name) for name in op.inputs]
            if [one.name for one in found] != op.inputs:
                before = [made for one in found for made in one.before]
                op = _product(graph, op, found)
                makers |= {made.outputs[0]: made for made in (*before, op)}
                ops += before
        elif op.kind == "Transpose":
            transposed.setdefault((op.inputs[0], _order(op, graph)), op.outputs[0])
        else:
            op = _scaled_inside(graph, makers, readers, op)
        ops.append(op)
    graph.ops = ops
    graph.sweep()


def turn_products(graph: StaticGraph) -> None:
    """Compute the transpose of a product where a transposition behind it then leaves the last axis in its place.

    Rows are copied whole then, and nothing at all where only the last two axes were exchanged.
    """
    makers, readers = graph.makers(), graph.readers()
    instead: dict[int, list[Op]] = {}
    for op in graph.ops:
        order = _order(op, graph) if op.kind == "Transpose" else ()
        rank = len(order)
        if rank < 3 or order[-1] != rank - 2:
            continue
        name = op.inputs[0]
        product = _maker_through_views(graph, makers, readers, name)
        if product is None or not _is_batched(graph, product):
            continue
        flags = [int(not product.attributes.get(flag, 0)) for flag in reversed(_FLAGS)]
        made = graph.name_for(f"{product.outputs[0]}.turned")
        *lead, rows, columns = graph.shapes[product.outputs[0]]
        graph.note(made, (*lead, columns, rows), graph.kinds[name])
        attributes = {"alpha": product.attributes.get("alpha", 1.0), **dict(zip(_FLAGS, flags, strict=True))}
        instead[id(product)] = [Op(_FUSED, product.inputs[::-1], [made], attributes)]
        *lead, rows, columns = graph.shapes[name]
        turned = graph.name_for(f"{name}.turned")
        kept = [{rank - 1: rank - 2, rank - 2: rank - 1}.get(axis, axis) for axis in order]
        moved = Op("Transpose", [turned], op.outputs, {"perm": kept})
        instead[id(op)] = [view(graph, made, turned, (*lead, columns, rows)), moved]
    graph.ops = [new for op in graph.ops for new in instead.get(id(op), [op])]
    graph.sweep()


def _order(op: Op, graph: StaticGraph) -> tuple[int, ...]:
    """Return the order into which a transposition brings the axes; nothing if no shape is known."""
    rank = len(graph.shapes.get(op.inputs[0], ()))
    return tuple(op.attributes.get("perm", range(rank)[::-1])) if rank else ()


def _maker_through_views(
    graph: StaticGraph, makers: dict[str, Op], readers: dict[str, list[Op]], name: str
) -> Op | None:
    """Return what made a value that nothing else reads, or the value that it is a view of on the same last two axes."""
    while graph.is_private(name) and len(readers[name]) == 1:
        maker = makers.get(name)
        if maker is None or not _keeps_matrices(graph, maker):
            return maker
        name = maker.inputs[0]
    return None


def _keeps_matrices(graph: StaticGraph, op: Op) -> bool:
    """Whether a node is a view on the same last two axes."""
    if op.kind not in VIEWS:
        return False
    given, made = (graph.shapes.get(name, ()) for name in (op.inputs[0], op.outputs[0]))
    return len(given) > 1 and given[-2:] == made[-2:]


def _is_batched(graph: StaticGraph, op: Op) -> bool:
    """Whether a node is a product of more than two matrices of float32."""
    names = (*op.inputs, *op.outputs)
    if op.kind not in ("MatMul", _FUSED) or any(len(graph.shapes.get(name, ())) < 3 for name in names):
        return False
    if graph.kinds[op.outputs[0]] != onnx.TensorProto.FLOAT:
        return False
    return op.kind == "MatMul" or not (op.attributes.get("transBatchA") or op.attributes.get("transBatchB"))


def _operand(
    graph: StaticGraph,
    makers: dict[str, Op],
    readers: dict[str, list[Op]],
    transposed: dict[tuple[str, tuple[int, ...]], str],
    name: str,
) -> _Operand:
    """Follow an operand to where it was not yet transposed or scaled, through views that keep its last two axes."""
    found = _Operand(name)
    shape = graph.shapes[name]
    here = name
    while (maker := makers.get(here)) is not None:
        source = maker.inputs[0] if maker.inputs else ""
        given = graph.shapes.get(source, ())
        if _keeps_matrices(graph, maker):
            here = source
            continue
        if maker.kind == "Transpose":
            if len(given) < 2:
                break
            *lead, row, column = _order(maker, graph)
            order = (*lead, column, row)
            if order == tuple(range(len(order))):
                pass
            elif row == len(order) - 1 and _read_by_products(graph, readers, here):
                source = _transpose(graph, transposed, source, order, found)
            else:
                break
            found.transposed = not found.transposed
        else:
            factor, source = scalar_factor(graph, maker)
            if factor is None:
                break
            found.factor *= factor
        here = found.name = source
    if found.name != name:
        wanted = (*shape[:-2], *graph.shapes[found.name][-2:])
        if graph.shapes[found.name] != wanted:
            seen = graph.name_for(f"{found.name}.batch")
            found.before.append(view(graph, found.name, seen, wanted))
            found.name = seen
    return found


def _transpose(
    graph: StaticGraph,
    transposed: dict[tuple[str, tuple[int, ...]], str],
    source: str,
    order: tuple[int, ...],
    found: _Operand,
) -> str:
    """Return the name of a value with its axes in another order, made before the product if nothing made it yet."""
    known = transposed.get((source, order))
    if known is None:
        known = transposed[source, order] = graph.name_for(f"{source}.moved")
        graph.note(known, (graph.shapes[source][axis] for axis in order), graph.kinds[source])
        found.before.append(Op("Transpose", [source], [known], {"perm": list(order)}))
    return known


def _read_by_products(graph: StaticGraph, readers: dict[str, list[Op]], name: str) -> bool:
    """Whether nothing but products read a value, as it is or through what `_operand` follows."""
    if not graph.is_private(name):
        return False
    for op in readers.get(name, ()):
        made = op.outputs[0]
        rank = len(graph.shapes[name])
        is_view = _keeps_matrices(graph, op)
        is_exchange = op.kind == "Transpose" and _order(op, graph) == (*range(rank - 2), rank - 1, rank - 2)
        if not _is_batched(graph, op) and not ((is_view or is_exchange) and _read_by_products(graph, readers, made)):
            return False
    return True


def _product(graph: StaticGraph, op: Op, operands: list[_Operand]) -> Op:
    """Return a product of other operands with the same value."""
    attributes: dict[str, Any] = {"alpha": op.attributes.get("alpha", 1.0), "transA": 0, "transB": 0}
    for flag, operand in zip(_FLAGS, operands, strict=True):
        attributes["alpha"] *= operand.factor
        attributes[flag] = int(bool(op.attributes.get(flag, 0)) != operand.transposed)
    return Op(_FUSED, [operand.name for operand in operands], op.outputs, attributes)


def _scaled_inside(graph: StaticGraph, makers: dict[str, Op], readers: dict[str, list[Op]], op: Op) -> Op:
    """Multiply inside the product that a node scales, if nothing else reads it, and return a view in its place."""
    factor, name = scalar_factor(graph, op)
    maker = None if factor is None else _maker_through_views(graph, makers, readers, name)
    if maker is None or factor is None or not _is_batched(graph, maker):
        return op
    maker.attributes["alpha"] = maker.attributes.get("alpha", 1.0) * factor
    maker.kind = _FUSED
    return view(graph, name, op.outputs[0], graph.shapes[op.outputs[0]])
