"""Which operations of a file ONNX Runtime computes on 8-bit integers, and which on floats, after its own fusions.

A file only suggests this: it writes a float convolution between a dequantisation and a quantisation, and ONNX Runtime
fuses the three into an integer one, or does not. So its optimised graph is asked, not the file.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime

from export.runtime import sessions

__all__ = ["Kernels", "kernels", "optimised"]

INTEGER = frozenset(
    {"QGemm", "QAttention", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
)
"""Operators that multiply integers although their results may be float; others of the kind begin with QLinear."""

CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"})
SAFE = 64
"""Two products of at most 255 and this fit into 16 bits with a sign: 2 × 255 × 64 < 2¹⁵."""

_BYTES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The nodes that ONNX Runtime runs on this machine's CPU; conversions between the two kinds are left out.

    Attributes:
        integer: {operator: names of its nodes} of those on 8-bit integers.
        floating: the same of those on floats.
        wide: names of nodes whose weights take more than 7 bits: on x86 processors without VNNI instructions, sums of
            two of their products can overflow 16 bits, which saturates them silently.
    """

    integer: Mapping[str, tuple[str, ...]]
    floating: Mapping[str, tuple[str, ...]]
    wide: tuple[str, ...] = ()

    @property
    def counts(self) -> tuple[int, int]:
        """How many nodes run on integers and on floats."""
        return sum(map(len, self.integer.values())), sum(map(len, self.floating.values()))

    def __str__(self) -> str:
        texts = []
        for kind, found in (("8-bit", self.integer), ("float", self.floating)):
            listed = ", ".join(f"{len(names)} {op}" for op, names in found.items())
            texts.append(f"{kind}: {listed or 'none'}")
        return "; ".join(texts)


def kernels(path: str | os.PathLike[str]) -> Kernels:
    """Ask ONNX Runtime what it runs for a file on the CPU of this machine.

    Raises:
        LoadError: if it refuses the file.
    """
    with tempfile.TemporaryDirectory(prefix="pure-export-") as folder:
        level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        graph = optimised(path, Path(folder) / "optimised.onnx", level).graph
    found: tuple[dict[str, list[str]], ...] = ({}, {})
    beyond = {tensor.name for tensor in graph.initializer if _wide(tensor)}
    wide = []
    for node, types in _nodes(graph, {}):
        if node.op_type in CONVERSIONS:
            continue
        result = types.get(node.output[0])
        if _multiplies_integers(node) and beyond.intersection(node.input):
            wide.append(node.name)
        if _multiplies_integers(node) or result in _BYTES:
            found[0].setdefault(node.op_type, []).append(node.name)
        elif result in _FLOATS or result is None:  # what is left computes sizes and conditions
            found[1].setdefault(node.op_type, []).append(node.name)
    integer, floating = ({op: tuple(names) for op, names in sorted(part.items())} for part in found)
    return Kernels(integer, floating, tuple(wide))


def optimised(
    path: str | os.PathLike[str],
    target: Path,
    level: onnxruntime.GraphOptimizationLevel,
    without: Sequence[str] = (),
) -> onnx.ModelProto:
    """Return the model as ONNX Runtime rewrites it for the CPU.

    Args:
        path: the file.
        target: where ONNX Runtime writes the rewritten one.
        level: how much it may rewrite.
        without: names of rewritings that are left out.

    Raises:
        LoadError: if it refuses the file.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = sessions.SILENT
    options.graph_optimization_level = level
    options.optimized_model_filepath = os.fspath(target)
    try:
        onnxruntime.InferenceSession(
            os.fspath(path), options, providers=[sessions.CPU], enable_fallback=0, disabled_optimizers=list(without)
        )
    except sessions.ERRORS as error:
        raise sessions.translated(error, path) from error
    return onnx.load(target)


def _wide(tensor: onnx.TensorProto) -> bool:
    """Say whether a tensor holds signed bytes of which two, times 255 each, can overflow 16 bits; one alone fits."""
    if tensor.data_type != onnx.TensorProto.INT8:
        return False
    values = onnx.numpy_helper.to_array(tensor)
    return values.size > 1 and bool((values < -SAFE).any() or (values > SAFE).any())


def _multiplies_integers(node: onnx.NodeProto) -> bool:
    return node.op_type in INTEGER or node.op_type.startswith("QLinear")


def _type(node: onnx.NodeProto, i: int, types: Mapping[str, int | None]) -> int | None:
    """Return the element type of a result for which ONNX Runtime wrote none down, by the operator's definition."""
    if node.op_type == "Cast":
        return next(attribute.i for attribute in node.attribute if attribute.name == "to")
    if node.op_type in ("MatMulIntegerToFloat", "DynamicQuantizeMatMul"):
        return onnx.TensorProto.FLOAT
    if not onnx.defs.has(node.op_type, node.domain):  # one of ONNX Runtime's own
        return onnx.TensorProto.UINT8 if _multiplies_integers(node) else types.get(node.input[0])
    schema = onnx.defs.get_schema(node.op_type, domain=node.domain)
    wanted = schema.outputs[min(i, len(schema.outputs) - 1)].type_str
    allowed = {c.type_param_str: list(c.allowed_type_strs) for c in schema.type_constraints}.get(wanted, [wanted])
    if len(allowed) == 1:
        return int(onnx.TensorProto.DataType.Value(allowed[0].removeprefix("tensor(").removesuffix(")").upper()))
    for position, name in enumerate(node.input):
        if name in types and schema.inputs[min(position, len(schema.inputs) - 1)].type_str == wanted:
            return types[name]
    return None


def _nodes(
    graph: onnx.GraphProto, outer: Mapping[str, int | None]
) -> Iterator[tuple[onnx.NodeProto, Mapping[str, int | None]]]:
    """Yield each node, those of branches and loops included, with the element types of the tensors it can see."""
    types: dict[str, int | None] = dict(outer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    types.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    for node in graph.node:
        for i, name in enumerate(node.output):
            types.setdefault(name, _type(node, i, types))
        yield node, types
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g, types)
