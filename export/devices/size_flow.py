"""Which nodes of a graph compute on nothing but sizes, followed through the graph from its inputs.

ONNX Runtime puts arithmetic of sizes on the CPU beside a GPU by design: `Shape` needs no values, and what is computed
from its result is a handful of integers. Whether a node is of that sort is a question of what it depends on, not of
its operator: a `Mul` of sizes is, a `Mul` of a tensor is not.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping

import onnx

from export.files import protobuf_wire

__all__ = ["MAX_SIZES", "Flow", "Seen", "data_sources", "skeleton"]

MAX_SIZES = 64
"""Elements of a constant up to which it may be a list of sizes, axes or a number; a longer one is a tensor of data."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """A node of a graph.

    Attributes:
        node: the node.
        source: what its value depends on beside sizes, an empty string if on nothing.
    """

    node: onnx.NodeProto
    source: str


Flow = dict[tuple[str, str], Seen]
"""{(node name, operator): the node}; of several with one name, the one that depends on data."""

_MEASURES = frozenset({"Shape", "Size", "SequenceLength"})
_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)

_GRAPH_INITIALIZER, _TENSOR_CONTENT = 5, (4, 5, 6, 7, 9, 10, 11)
"""Fields of GraphProto and TensorProto."""


def data_sources(model: onnx.ModelProto) -> Flow:
    """Return what each node depends on beside sizes; nodes of functions are named `call.node`.

    Args:
        model: the model; values of its initializers are not read.
    """
    bodies = {(function.domain, function.name): function for function in model.functions}
    flow: Flow = {}
    values = {value.name: value.name for value in model.graph.input}
    values |= _constants(model.graph.initializer)
    _follow(model.graph.node, values, "", bodies, flow)
    return flow


def skeleton(model: bytes | str | os.PathLike[str]) -> onnx.ModelProto:
    """Read a model without the content of its initializers, which may be gigabytes.

    Args:
        model: a file or its bytes.
    """
    if isinstance(model, bytes):
        return onnx.ModelProto.FromString(_without_content(model))
    with protobuf_wire.mapped(model) as data:
        return onnx.ModelProto.FromString(_without_content(data))


def _without_content(data: protobuf_wire.Buffer) -> bytes:
    parts: list[bytes] = []
    for number, kind, begin, end in protobuf_wire.fields(data, 0, len(data)):
        if (number, kind) == (protobuf_wire.GRAPH, 2):
            parts.append(_field(number, b"".join(_graph_parts(data, begin, end))))
        elif kind == 2:
            parts.append(_field(number, bytes(data[begin:end])))
    return b"".join(parts)


def _graph_parts(data: protobuf_wire.Buffer, begin: int, end: int) -> Iterable[bytes]:
    for number, kind, a, b in protobuf_wire.fields(data, begin, end):
        if kind != 2:
            continue
        if number == _GRAPH_INITIALIZER:
            kept = [
                _field(n, bytes(data[c:d])) if k == 2 else _varint(n << 3) + _varint(c)
                for n, k, c, d in protobuf_wire.fields(data, a, b)
                if n not in _TENSOR_CONTENT and k in (0, 2)
            ]
            yield _field(number, b"".join(kept))
        else:
            yield _field(number, bytes(data[a:b]))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _constants(tensors: Iterable[onnx.TensorProto]) -> dict[str, str]:
    return {tensor.name: _constant(tensor) for tensor in tensors}


def _constant(tensor: onnx.TensorProto) -> str:
    count = 1
    for size in tensor.dims:
        count *= size
    small = count <= MAX_SIZES and len(tensor.dims) <= 1
    return "" if small else f"the constant {tensor.name}".rstrip()


def _follow(
    nodes: Iterable[onnx.NodeProto],
    values: dict[str, str],
    prefix: str,
    bodies: Mapping[tuple[str, str], onnx.FunctionProto],
    flow: Flow,
) -> None:
    """Follow nodes in their order; `values` are what is known of each name, and are added to."""
    for node in nodes:
        given = [values.get(name, "") for name in node.input if name]
        source = next(filter(None, given), "")
        found = [source] * len(node.output)
        body = bodies.get((node.domain, node.op_type))
        if body is not None:
            inner = dict(zip(body.input, [values.get(name, "") for name in node.input], strict=False))
            _follow(body.node, inner, f"{prefix}{node.name}.", bodies, flow)
            found = [inner.get(name, "") for name in body.output]
        elif node.op_type in _MEASURES:
            found, source = [""] * len(node.output), ""
        elif node.op_type in _RANDOM:
            source = source or "random numbers"
            found = [source] * len(node.output)
        elif node.op_type == "Constant":
            tensor = next((a.t for a in node.attribute if a.name == "value"), None)
            found = [_constant(tensor) if tensor is not None else ""] * len(node.output)
        elif node.op_type in ("If", "Loop", "Scan"):
            found = _control_flow(node, values, prefix, bodies, flow)
            source = next(filter(None, [source, *found]), "")
        values.update(zip(node.output, found, strict=False))
        if body is None:
            key = (prefix + node.name, node.op_type)
            if key not in flow or not flow[key].source:
                flow[key] = Seen(node, source)


def _control_flow(
    node: onnx.NodeProto,
    values: dict[str, str],
    prefix: str,
    bodies: Mapping[tuple[str, str], onnx.FunctionProto],
    flow: Flow,
) -> list[str]:
    """Follow the bodies of a branch or a loop; what is carried from step to step until nothing changes."""
    graphs = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    given = [values.get(name, "") for name in node.input]
    if node.op_type == "If":
        found = [given[0]] * len(node.output)
        for graph in graphs:
            inner = dict(values) | _constants(graph.initializer)
            _follow(graph.node, inner, prefix, bodies, flow)
            found = [known or inner.get(value.name, "") for known, value in zip(found, graph.output, strict=True)]
        return found
    (graph,) = graphs
    skipped = 2 if node.op_type == "Loop" else 0  # the number of steps and the condition
    entering = ["", *given[1:]] if node.op_type == "Loop" else list(given)
    entering += [""] * (len(graph.input) - len(entering))  # optional inputs that are left out
    for _ in range(len(entering) + 1):
        inner = dict(values) | _constants(graph.initializer)
        inner.update(zip((value.name for value in graph.input), entering, strict=False))
        _follow(graph.node, inner, prefix, bodies, flow)
        leaving = [inner.get(value.name, "") for value in graph.output]
        shift = 1 if node.op_type == "Loop" else 0  # the body gives its condition and then the states
        carried = len(graph.input) - skipped if node.op_type == "Loop" else len(graph.input) - _scanned(node)
        renewed = list(entering)
        for i in range(carried):
            renewed[skipped + i] = entering[skipped + i] or leaving[shift + i]
        if renewed == entering:
            break
        entering = renewed
    steps = next(filter(None, given[:skipped]), "")  # how often a loop runs decides what it gives
    return [steps or source for source in leaving[shift:]]


def _scanned(node: onnx.NodeProto) -> int:
    return next(a.i for a in node.attribute if a.name == "num_scan_inputs")
