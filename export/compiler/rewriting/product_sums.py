"""Sums and factors around a product of two matrices, computed by the product: alpha · A · B + beta · C.

ONNX Runtime's own optimiser does so for a bias. A residual stream adds whole matrices, and the derivative of a product
along a direction is a sum of two products. For a large product it is the other way round: ONNX Runtime copies the
summand to the result first, on one thread, so that adding afterwards, on all of them, is faster.
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from export.compiler.rewriting.static_graph import Op, StaticGraph

__all__ = ["absorb_factors", "absorb_sums", "release_sums", "scalar_factor"]

MAX_ELEMENTS_WITH_SUMMAND = 2**16
"""Elements of a product up to which its summand is added by the product."""

MIN_ROW_SPREAD = 64
"""Elements of a row from which adding it to each row of a large matrix is a fast loop."""

_PRODUCTS = ("Gemm", "com.microsoft.FusedGemm")


def absorb_factors(graph: StaticGraph) -> None:
    """Multiply by a number inside the product that made the value, or inside all those that read it."""
    makers, readers = graph.makers(), graph.readers()
    gone: set[int] = set()
    for op in graph.ops:
        factor, name = scalar_factor(graph, op)
        if factor is None:
            continue
        made = op.outputs[0]
        maker, users = makers.get(name), readers.get(made, [])
        if maker is not None and maker.kind == "Gemm" and len(readers[name]) == 1 and graph.is_private(name):
            if not _multiply(maker, factor, graph.kinds[made], beta=len(maker.inputs) > 2):
                continue
            maker.outputs[0] = made
            makers[made] = maker
        elif users and graph.is_private(made) and all(_multiplies(user, made) for user in users):
            if not all(_fits(user.attributes.get("alpha", 1.0) * factor, graph.kinds[made]) for user in users):
                continue
            for user in users:
                _multiply(user, factor, graph.kinds[made])
                user.inputs = [name if given == made else given for given in user.inputs]
                readers[name].append(user)
            readers[name].remove(op)
        else:
            continue
        gone.add(id(op))
    graph.ops = [op for op in graph.ops if id(op) not in gone]


def scalar_factor(graph: StaticGraph, op: Op) -> tuple[float | None, str]:
    """Return the number that a node multiplies by, None if there is none, and the value that it multiplies.

    Where a type has a small range, what is multiplied before a product keeps it from overflowing, and stays before.
    Zero, infinity and NaN stay where they are, as products have their own way with them.
    """
    if op.kind != "Mul" or graph.kinds.get(op.outputs[0]) not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        return None, ""
    for one, other in (op.inputs, op.inputs[::-1]):
        value = graph.constant(one)
        same = graph.shapes.get(other) == graph.shapes.get(op.outputs[0]) is not None
        if value is not None and value.size == 1 and same and math.isfinite(value.item()) and value.item() != 0:
            return value.item(), other
    return None, ""


def _multiply(op: Op, factor: float, kind: int, *, beta: bool = False) -> bool:
    """Multiply a product, and what it adds, by a number; return whether its attributes can hold that."""
    names = ("alpha", "beta") if beta else ("alpha",)
    wanted = {name: op.attributes.get(name, 1.0) * factor for name in names}
    fits = all(_fits(value, kind) for value in wanted.values())
    if fits:
        op.attributes.update(wanted)
    return fits


def _fits(value: float, kind: int) -> bool:
    """Whether an attribute, which is a float32, is as exact as values of this type."""
    return kind == onnx.TensorProto.FLOAT or float(np.float32(value)) == value


def _multiplies(op: Op, name: str) -> bool:
    """Whether a node is a product, one of whose two factors is this value."""
    return op.kind in _PRODUCTS and op.inputs[:2].count(name) == 1 and name not in op.inputs[2:]


def absorb_sums(graph: StaticGraph) -> None:
    """Add inside the product what is added to it, where nothing else reads the product."""
    makers, readers = graph.makers(), graph.readers()
    place = {id(op): i for i, op in enumerate(graph.ops)}
    gone: set[int] = set()
    for i, op in enumerate(graph.ops):
        if op.kind != "Add" or len(set(op.inputs)) < 2:
            continue
        candidates = []
        for name, added in (op.inputs, op.inputs[::-1]):
            maker = makers.get(name)
            if maker is None or maker.kind != "Gemm" or len(readers[name]) > 1 or not graph.is_private(name):
                continue
            if _has_summand(maker) or not _spreads(graph.shapes.get(added), graph.shapes.get(name)):
                continue
            if _adds_faster_alone(graph, name, added):
                continue
            candidates.append((place[id(maker)], maker, added))
        if candidates:  # the later one, so that the earlier product is there when it is added
            _, maker, added = max(candidates, key=lambda found: found[0])
            gone.add(id(maker))
            inputs, attributes = [*maker.inputs[:2], added], {**maker.attributes, "beta": 1.0}
            graph.ops[i] = makers[op.outputs[0]] = Op("Gemm", inputs, op.outputs, attributes)
            place[id(graph.ops[i])] = i
    graph.ops = [op for op in graph.ops if id(op) not in gone]


def _has_summand(op: Op) -> bool:
    return len(op.inputs) > 2 and bool(op.inputs[2])


def _spreads(shape: tuple[int, ...] | None, target: tuple[int, ...] | None) -> bool:
    """Whether a value of a shape can be added to a matrix without making it larger."""
    if shape is None or target is None or len(shape) > 2:
        return False
    own = (1,) * (2 - len(shape)) + shape
    return all(size in (1, full) for size, full in zip(own, target, strict=True))


def release_sums(graph: StaticGraph) -> None:
    """Add behind a large product what it adds."""
    ops: list[Op] = []
    for op in graph.ops:
        made = op.outputs[0]
        if (
            op.kind != "Gemm"
            or not _has_summand(op)
            or not _adds_faster_alone(graph, made, op.inputs[2])
            or not _spreads(graph.shapes.get(op.inputs[2]), graph.shapes[made])
            or op.attributes.get("beta", 1.0) != 1
        ):
            ops.append(op)
            continue
        product = graph.name_for(f"{made}.product")
        graph.note(product, graph.shapes[made], graph.kinds[made])
        ops.append(Op("Gemm", op.inputs[:2], [product], op.attributes))
        ops.append(Op("Add", [product, op.inputs[2]], [made], {}))
    graph.ops = ops


def _adds_faster_alone(graph: StaticGraph, product: str, added: str) -> bool:
    """Whether a sum takes less behind a product than inside."""
    shape, own = graph.shapes.get(product, ()), graph.shapes.get(added, ())
    return math.prod(shape) > MAX_ELEMENTS_WITH_SUMMAND and (own == shape or shape[-1] >= MIN_ROW_SPREAD)
