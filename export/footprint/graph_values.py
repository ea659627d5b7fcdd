"""What is known of a graph's values: shapes, bytes, and which are inputs, stored tensors and outputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

import onnx
import onnx_ir as ir

__all__ = ["GraphValues", "graph_values", "in_mib", "inner_graphs"]


@dataclasses.dataclass(frozen=True)
class GraphValues:
    """The values of one graph.

    Attributes:
        shapes: {value: its shape}, for those of known shape.
        bytes: {value: its bytes}, for the same ones.
        inputs: names of the inputs.
        stored: names of the initializers.
        outputs: names of the outputs.
    """

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


def graph_values(graph: onnx.GraphProto, sizes: Mapping[str, int] | None = None) -> GraphValues:
    """Read the shapes that a graph declares.

    Args:
        graph: the graph.
        sizes: numbers for the names of sizes; a shape with another name in it counts as unknown.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    bytes_: dict[str, int] = {}

    def note(name: str, dims: list[int], element: int) -> None:
        shapes[name] = tuple(dims)
        bytes_[name] = math.ceil(math.prod(dims) * _element_bytes(element))

    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            continue
        dims = [(sizes or {}).get(d.dim_param) if d.dim_param else d.dim_value for d in tensor.shape.dim]
        known = [size for size in dims if size is not None]
        if len(known) == len(dims):
            note(value.name, known, tensor.elem_type)
    for tensor in graph.initializer:
        note(tensor.name, list(tensor.dims), tensor.data_type)
    stored = frozenset(tensor.name for tensor in graph.initializer)
    return GraphValues(
        shapes,
        bytes_,
        frozenset(value.name for value in graph.input) - stored,
        stored,
        frozenset(value.name for value in graph.output),
    )


def inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the branches or the body that a node holds."""
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _element_bytes(kind: int) -> float:
    """Return the bytes of one element; of text, whose length no shape says, those of nothing."""
    return 0.0 if kind in (ir.DataType.UNDEFINED, ir.DataType.STRING) else ir.DataType(kind).itemsize


def in_mib(count: int) -> str:
    """Return a number of bytes as text.

    >>> in_mib(3 * 2**20), in_mib(1000)
    ('3.0 MiB', '0.001 MiB')
    """
    size = count / 2**20
    return f"{size:,.1f} MiB" if size >= 0.1 else f"{size:.1g} MiB"
