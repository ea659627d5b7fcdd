"""Whether all nodes of a model would run on CUDA, from the table of kernels and rules, before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx

from export.devices import cuda_kernels, size_flow
from export.graph.node_notes import read_notes, unsupported

__all__ = ["Stray", "raise_unless_on_cuda", "strays"]

_NAMES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT16: "int16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.BOOL: "bool",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}


@dataclasses.dataclass(frozen=True)
class Stray:
    """A node that computes on data and that CUDA would not take.

    Attributes:
        node: the node.
        dtype: of the input that decides.
        reason: what the provider lacks.
        way_out: what to do instead.
        depends_on: the data that its value depends on.
    """

    node: onnx.NodeProto
    dtype: str
    reason: str
    way_out: str
    depends_on: str


def strays(model: onnx.ModelProto) -> list[Stray]:
    """Return the nodes that CUDA would leave to the CPU though they compute on data."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    flow = size_flow.data_sources(model)
    found = []
    for node, types in _typed(model.graph, {}):
        seen = flow.get((node.name, node.op_type))
        if seen is None or not seen.source:
            continue
        position = cuda_kernels.decisive_input(node.op_type)
        known = None if position is None or position >= len(node.input) else types.get(node.input[position])
        problem = cuda_kernels.why_not(node, known, opset)
        if problem is not None:
            found.append(Stray(node, known or "", *problem, seen.source))
    return found


def raise_unless_on_cuda(model: onnx.ModelProto) -> None:
    """Raise if a node that computes on data would run on the CPU.

    Raises:
        UnsupportedOpError: naming the first such node, its dtype, the reason and a way out.
    """
    found = strays(model)
    if not found:
        return
    first = found[0]
    others = f" (and {len(found) - 1} more nodes)" if len(found) > 1 else ""
    raise unsupported(
        f"target='cuda', but node {first.node.name!r}{others} would run on the CPU: of ONNX Runtime "
        f"{cuda_kernels.VERSION}'s CUDA provider, {first.reason}. Way out: {first.way_out}; or export without "
        "target='cuda' and load on the CPU",
        first.node.op_type,
        read_notes(first.node),
        first.dtype or None,
    )


def _typed(graph: onnx.GraphProto, outer: dict[str, str]) -> Iterator[tuple[onnx.NodeProto, dict[str, str]]]:
    """Yield every node with the dtypes of the values that it can see, bodies of branches and loops included."""
    types = dict(outer)
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = _NAMES.get(value.type.tensor_type.elem_type, "")
    for tensor in graph.initializer:
        types[tensor.name] = _NAMES.get(tensor.data_type, "")
    types = {name: dtype for name, dtype in types.items() if dtype}
    for node in graph.node:
        yield node, types
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _typed(attribute.g, types)
