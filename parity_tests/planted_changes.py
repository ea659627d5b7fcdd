"""Ways to damage one node of a model: each returns the name of the node that is then wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["CHANGES", "Place", "places"]

PLANTED = "planted"
"""What an added node is called."""


@dataclasses.dataclass(frozen=True)
class Place:
    """One node of a model.

    Attributes:
        model: the model.
        nodes: the nodes of the graph, branch, loop body or function that it is one of.
        node: the node.
        kinds: the element types of the values there.
        shapes: the sizes of those whose sizes are known.
    """

    model: onnx.ModelProto
    nodes: Any
    node: onnx.NodeProto
    kinds: dict[str, int]
    shapes: dict[str, tuple[int, ...]]

    @property
    def kind(self) -> int:
        """The element type of the node's first output, 0 if it is not known."""
        return self.kinds.get(self.node.output[0], 0)

    def insert(self, distance: int, node: onnx.NodeProto) -> None:
        """Put a node so far behind this one."""
        self.nodes.insert(list(self.nodes).index(self.node) + distance, node)

    def constant(self, value: Any) -> str:
        """Add a constant before the node, where it can be read; return its name."""
        array = np.asarray(value)
        name = f"{PLANTED}.constant"
        node = helper.make_node("Constant", [], [name], name, value=numpy_helper.from_array(array, name))
        self.nodes.insert(list(self.nodes).index(self.node), node)
        return name


Change = Callable[[Place], str]


def places(model: onnx.ModelProto) -> Iterator[Place]:
    """Yield every node, those of branches, loop bodies and functions too."""
    yield from _places(model, model.graph.node, model.graph, {})
    for function in model.functions:
        kinds = {value.name: value.type.tensor_type.elem_type for value in function.value_info}
        shapes = _shapes(function.value_info)
        yield from (Place(model, function.node, node, kinds, shapes) for node in function.node if node.metadata_props)


def _shapes(values: Any) -> dict[str, tuple[int, ...]]:
    found = {}
    for value in values:
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found


def _places(model: onnx.ModelProto, nodes: Any, graph: onnx.GraphProto, outer: dict[str, int]) -> Iterator[Place]:
    values = (*graph.value_info, *graph.output, *graph.input)
    kinds = outer | {value.name: value.type.tensor_type.elem_type for value in values}
    shapes = _shapes(values)
    for node in nodes:
        inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        if not inner and not node.domain:
            yield Place(model, nodes, node, kinds, shapes)
        for part in inner:
            yield from _places(model, part.node, part, kinds)


def _beside(node: onnx.NodeProto, kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """Return a node that stands for the same recorded operator as another."""
    made = helper.make_node(kind, inputs, [output], name=PLANTED, **attributes)
    made.metadata_props.extend(node.metadata_props)
    return made


FLOAT, INT, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL


def _behind(kind: str, on: int, constant: Any = None) -> Change:
    """Put a node behind a node's first output, if that has the element type `on`."""

    def change(place: Place) -> str:
        if place.kind != on or place.node.op_type in ("Shape", "Size"):
            return ""
        value, inputs = place.node.output[0], ["planted.before"]
        if constant is not None:
            inputs.append(place.constant(constant))
        place.node.output[0] = "planted.before"
        place.insert(1, _beside(place.node, kind, inputs, value))
        return PLANTED

    return change


def _one_element(place: Place) -> str:
    """Multiply one element by 1.01: the last along every axis."""
    shape = place.shapes.get(place.node.output[0])
    if place.kind != FLOAT or shape is None or 0 in shape:
        return ""
    factors = np.ones(shape, np.float32)
    factors[(-1,) * len(shape)] = 1.01
    return _behind("Mul", FLOAT, factors)(place)


def _through_half(place: Place) -> str:
    if place.kind != FLOAT:
        return ""
    value = place.node.output[0]
    place.node.output[0] = "planted.before"
    place.insert(1, helper.make_node("Cast", ["planted.before"], ["planted.half"], to=onnx.TensorProto.FLOAT16))
    place.insert(2, _beside(place.node, "Cast", ["planted.half"], value, to=FLOAT))
    return PLANTED


OTHER = {
    "Sin": "Cos", "Cos": "Sin", "Add": "Sub", "Sub": "Add", "Mul": "Add", "Div": "Mul", "Relu": "Abs", "Tanh": "Atan",
    "Sigmoid": "HardSigmoid", "Exp": "Softplus", "Sqrt": "Abs", "ArgMax": "ArgMin", "ReduceMax": "ReduceMin",
    "ReduceSum": "ReduceMean", "ReduceMean": "ReduceSum", "Greater": "Less", "LessOrEqual": "Less", "Max": "Min",
    "MaxPool": "AveragePool", "Softmax": "LogSoftmax", "LogSoftmax": "Softmax", "Erf": "Tanh", "Gelu": "Mish",
    "Neg": "Abs", "And": "Or", "Or": "And", "Equal": "Less", "Min": "Max", "ReduceMin": "ReduceMax",
}  # fmt: skip


def _other_operator(place: Place) -> str:
    node = place.node
    if node.op_type not in OTHER or len([name for name in node.output if name]) > 1:
        return ""
    node.op_type = OTHER[node.op_type]
    if node.op_type in ("HardSigmoid", "Softplus", "Mish", "Abs", "Tanh"):
        del node.attribute[:]
    return str(node.name)


def _swapped_inputs(place: Place) -> str:
    node = place.node
    if node.op_type not in ("Sub", "Div", "Greater", "LessOrEqual", "Less", "Pow", "Where"):
        return ""
    first = 1 if node.op_type == "Where" else 0
    node.input[first], node.input[first + 1] = node.input[first + 1], node.input[first]
    return str(node.name)


def _attribute(names: tuple[str, ...], change: Callable[[str, Any], Any]) -> Change:
    """Change the first of these attributes that a node has."""

    def changed(place: Place) -> str:
        for attribute in place.node.attribute:
            if attribute.name in names:
                value = helper.get_attribute_value(attribute)
                new = change(place.node.op_type, value)
                if new != value:
                    attribute.CopyFrom(helper.make_attribute(attribute.name, new))
                    return str(place.node.name)
        return ""

    return changed


def _axis(kind: str, axis: int) -> int:
    return 0 if kind in ("Softmax", "LogSoftmax", "ArgMax", "TopK") else axis


CHANGES: dict[str, Change] = {
    "× 1.00001": _behind("Mul", FLOAT, np.float32(1.00001)),
    "× 1.0001": _behind("Mul", FLOAT, np.float32(1.0001)),
    "one element × 1.01": _one_element,
    "+ 0.001": _behind("Add", FLOAT, np.float32(1e-3)),
    "negated": _behind("Neg", FLOAT),
    "through float16": _through_half,
    "off by one": _behind("Add", INT, np.int64(1)),
    "inverted": _behind("Not", BOOL),
    "another operator": _other_operator,
    "operands swapped": _swapped_inputs,
    "epsilon × 100": _attribute(("epsilon",), lambda _, value: value * 100),
    "another axis": _attribute(("axis",), _axis),
    "the smallest": _attribute(("largest",), lambda _, value: 1 - value),
}
"""Each returns the name of the node that is then wrong, "" if it does not apply."""
