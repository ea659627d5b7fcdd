"""A graph of static shapes under rewriting: who makes and reads each value, which are constants, new names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.footprint.lifetimes import reads

__all__ = ["Op", "StaticGraph"]

MAX_CONSTANT_ELEMENTS = 64
"""Elements up to which a stored tensor is read: factors, axes and shapes, not weights."""


class Op:
    """A node whose inputs can be exchanged.

    Attributes:
        node: the node as it was read, None for a new one.
        kind: its operator, with the domain before a dot unless that is ONNX's own: "Gemm", "com.microsoft.FusedGemm".
        inputs: the values that it reads.
        outputs: the values that it makes.
    """

    def __init__(
        self,
        kind: str,
        inputs: Iterable[str],
        outputs: Iterable[str],
        attributes: Mapping[str, Any] | None = None,
        node: onnx.NodeProto | None = None,
    ) -> None:
        self.kind, self.node = kind, node
        self.inputs, self.outputs = list(inputs), list(outputs)
        self._attributes = None if attributes is None else dict(attributes)

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes, as Python values; a change is kept."""
        if self._attributes is None:
            given = self.node.attribute if self.node is not None else ()
            self._attributes = {one.name: onnx.helper.get_attribute_value(one) for one in given}
        return self._attributes

    def to_node(self) -> onnx.NodeProto:
        """Return it as a node."""
        if self.node is not None and self._attributes is None:
            for field, names in ((self.node.input, self.inputs), (self.node.output, self.outputs)):
                if list(field) != names:
                    del field[:]
                    field.extend(names)
            return self.node
        domain, _, name = self.kind.rpartition(".")
        made = onnx.helper.make_node(name, self.inputs, self.outputs, domain=domain, **self.attributes)
        made.name = self.outputs[0]
        return made


class StaticGraph:
    """The nodes of a graph, in an order in which they can run, and what is known of its values.

    Attributes:
        ops: the nodes.
        shapes: {value: its shape}, of the values whose shape is known.
        kinds: {value: ONNX's number of its element type}, of the same ones.
        outputs: names of the graph's outputs.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self.ops = [
            Op(f"{node.domain}.{node.op_type}" if node.domain else node.op_type, node.input, node.output, node=node)
            for node in graph.node
        ]
        self.outputs = frozenset(value.name for value in graph.output)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.kinds: dict[str, int] = {}
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._new: dict[str, onnx.TensorProto] = {}
        self._named: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        for value in (*graph.value_info, *graph.input, *graph.output):
            kind = value.type.tensor_type
            if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
                self.note(value.name, [dim.dim_value for dim in kind.shape.dim], kind.elem_type)
        for tensor in graph.initializer:
            self.note(tensor.name, tensor.dims, tensor.data_type)
        self._taken = {name for op in self.ops for name in (*op.outputs, *op.inputs)} | set(self.shapes)
        self._inner = Counter(
            name for node in graph.node if any(a.HasField("g") for a in node.attribute) for name in reads(node)
        )

    def note(self, name: str, shape: Iterable[int], kind: int) -> None:
        """Write down a value's shape and element type."""
        self.shapes[name], self.kinds[name] = tuple(shape), kind

    def makers(self) -> dict[str, Op]:
        """Return {value: the node that makes it}."""
        return {name: op for op in self.ops for name in op.outputs if name}

    def readers(self) -> dict[str, list[Op]]:
        """Return {value: the nodes that read it, one that reads it twice twice}."""
        found: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in op.inputs:
                found.setdefault(name, []).append(op)
        return found

    def is_private(self, name: str) -> bool:
        """Whether a value is neither an output nor read inside a branch or a loop."""
        return name not in self.outputs and not self._inner[name]

    def is_read_inside(self, name: str) -> bool:
        """Whether a value is read inside a branch or a loop."""
        return bool(self._inner[name])

    def reshape_output(self, name: str, shape: Sequence[int]) -> None:
        """Declare another shape of an output."""
        self.shapes[name] = tuple(shape)
        for value in self._graph.output:
            if value.name == name:
                del value.type.tensor_type.shape.dim[:]
                value.type.tensor_type.shape.dim.extend(
                    onnx.TensorShapeProto.Dimension(dim_value=size) for size in shape
                )

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return the value of a small stored tensor, None for any other value."""
        tensor = self._new.get(name) or self._stored.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        if np.prod(tensor.dims, dtype=np.int64) > MAX_CONSTANT_ELEMENTS:
            return None
        value: NDArray[Any] = numpy_helper.to_array(tensor)
        return value

    def is_stored(self, name: str) -> bool:
        """Whether a value is a tensor inside the model."""
        return name in self._stored or name in self._new

    def name_for(self, stem: str) -> str:
        """Return a name that no value has."""
        name, count = stem, 0
        while name in self._taken:
            count += 1
            name = f"{stem}_{count}"
        self._taken.add(name)
        return name

    def stored_integers(self, values: Sequence[int]) -> str:
        """Return the name of a stored list of int64, the same one for the same numbers."""
        return self.stored(np.array(values, np.int64))

    def stored(self, value: NDArray[Any]) -> str:
        """Return the name of a stored tensor, the same one for the same values."""
        key = value.dtype.str, value.shape, value.tobytes()
        name = self._named.get(key)
        if name is None:
            name = self._named[key] = self.name_for("rewritten.constant")
            self._new[name] = tensor = numpy_helper.from_array(value, name)
            self.note(name, value.shape, tensor.data_type)
        return name

    def replace(self, instead: Mapping[str, str]) -> None:
        """Have every node read other values instead."""
        for op in self.ops:
            op.inputs = [instead.get(name, name) for name in op.inputs]

    def sweep(self) -> None:
        """Leave out nodes of which nothing is read."""
        read = set(self.outputs) | set(self._inner)
        kept: list[Op] = []
        for op in reversed(self.ops):
            if read.isdisjoint(op.outputs):
                continue
            kept.append(op)
            read.update(op.inputs)
        self.ops = kept[::-1]

    def write(self) -> None:
        """Put the nodes, and what was stored, into the graph."""
        nodes = onnx.GraphProto(node=[op.to_node() for op in self.ops])
        del self._graph.node[:]
        self._graph.node.extend(nodes.node)
        self._graph.initializer.extend(self._new.values())
        known = {value.name for value in (*self._graph.value_info, *self._graph.input, *self._graph.output)}
        for op in self.ops:
            for name in op.outputs:
                if name and name not in known and name in self.shapes:
                    info = onnx.helper.make_tensor_value_info(name, self.kinds[name], self.shapes[name])
                    self._graph.value_info.append(info)
