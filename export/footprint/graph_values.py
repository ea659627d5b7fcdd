"""What is known of a graph's values: shapes, bytes, and which are inputs, stored tensors and outputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import onnx
import onnx_ir as ir

from export.footprint.size_formulas import evaluated

__all__ = ["GraphValues", "graph_values"]


_BLOCKED_CHANNELS = "com.microsoft.nchwc"
"""The domain of the kernels that ONNX Runtime's optimiser writes for maps whose channels lie in blocks."""

Dim = int | str | None
"""A size as a graph declares it: a number, a name or a formula of names, None if it says nothing."""


@dataclasses.dataclass(frozen=True)
class GraphValues:
    """The values of one graph.

    Attributes:
        declared: {value: its shape as the graph declares it}.
        shapes: {value: its shape in numbers}, for those of known shape.
        bytes: {value: its bytes}, for the same ones.
        inputs: names of the inputs.
        stored: names of the initializers.
        outputs: names of the outputs.
    """

    declared: dict[str, tuple[Dim, ...]]
    shapes: dict[str, tuple[int, ...]]
    bytes: dict[str, int]
    inputs: frozenset[str]
    stored: frozenset[str]
    outputs: frozenset[str]

    @property
    def given(self) -> frozenset[str]:
        """What is there before the first node runs."""
        return self.inputs | self.stored

    def total(self, names: Iterable[str]) -> int:
        """Return the bytes of some values together."""
        return sum(self.bytes.get(name, 0) for name in names)

    def filled(self, other: GraphValues) -> GraphValues:
        """Return the same with the numbers of another form of the graph where this one has none."""
        return dataclasses.replace(self, shapes=other.shapes | self.shapes, bytes=other.bytes | self.bytes)


def graph_values(graph: onnx.GraphProto, sizes: Mapping[str, int] | None = None) -> GraphValues:
    """Read the shapes that a graph declares.

    Args:
        graph: the graph.
        sizes: numbers for the names of sizes.
    """
    declared: dict[str, tuple[Dim, ...]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    bytes_: dict[str, int] = {}

    def note(name: str, dims: Sequence[Dim], element: int) -> None:
        declared[name] = tuple(dims)
        numbers = [evaluated(dim, sizes or {}) if isinstance(dim, str) else dim for dim in dims]
        known = tuple(number for number in numbers if number is not None)
        if len(known) == len(dims):
            shapes[name], bytes_[name] = known, math.ceil(math.prod(known) * _element_bytes(element))

    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            dims = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
            note(value.name, dims, tensor.elem_type)
    for tensor in graph.initializer:
        note(tensor.name, list(tensor.dims), tensor.data_type)
    for node in graph.node:
        if node.domain == _BLOCKED_CHANNELS and node.op_type in ("ReorderInput", "ReorderOutput"):
            blocked, plain = (node.input[0], node.output[0])[:: 1 if node.op_type == "ReorderOutput" else -1]
            if blocked not in declared and plain in declared:  # ONNX knows no such node
                note(blocked, declared[plain], onnx.TensorProto.FLOAT)
    stored = frozenset(tensor.name for tensor in graph.initializer)
    return GraphValues(
        declared,
        shapes,
        bytes_,
        frozenset(value.name for value in graph.input) - stored,
        stored,
        frozenset(value.name for value in graph.output),
    )


def _element_bytes(kind: int) -> float:
    """Return the bytes of one element; of text, whose length no shape says, those of nothing."""
    return 0.0 if kind in (ir.DataType.UNDEFINED, ir.DataType.STRING) else ir.DataType(kind).itemsize
