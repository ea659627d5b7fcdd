"""A model before the quantiser and after it: what it cannot do by itself, and what it does not keep."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from export.errors import ArgumentError, UnsupportedOpError, WriteError, nearest
from export.files import protobuf_wire
from export.quantization.integer_kernels import optimised

__all__ = ["WEIGHTS", "check_weights", "excluded", "prepared", "restore"]

WEIGHTS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
"""Operators with weights, and which input those are."""

DISABLED_FUSIONS = ("MatMulAddFusion",)
"""Makes x + h W one Gemm, which ONNX Runtime computes on floats, as it has no 8-bit one whose bias is no constant."""


def prepared(original: onnx.ModelProto, source: Path, folder: Path) -> onnx.ModelProto:
    """Let ONNX Runtime fold constants and normalisation, as the quantiser's own pre-processing does."""
    if sum(len(tensor.raw_data) for tensor in original.graph.initializer) > protobuf_wire.MAX_FILE_BYTES - 2**24:
        raise WriteError(f"the tensors inside {source} exceed 2 GB, more than one ONNX file can hold: quantise a part")
    onnx.save(original, folder / "plain.onnx")
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    model = optimised(folder / "plain.onnx", folder / "prepared.onnx", level, without=DISABLED_FUSIONS)
    del model.graph.value_info[:]  # the quantiser infers shapes itself, and contradicts these where it moves weights
    _unshare(model)
    return model


def _unshare(model: onnx.ModelProto) -> None:
    """Give each kind of operator its own copy of a weight.

    The quantiser would quantise a shared one once, and not fit the other operator.
    A token embedding that is also the head's weight is such a one: the head wants a scale for each row.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    owners: dict[str, str] = {}
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name not in tensors or not tensors[name].dims:
                continue
            if owners.setdefault(name, node.op_type) != node.op_type:
                copy = f"{name}.{node.op_type}"
                if copy not in tensors:
                    tensors[copy] = model.graph.initializer.add()
                    tensors[copy].CopyFrom(tensors[name])
                    tensors[copy].name = copy
                node.input[i] = copy


def check_weights(model: onnx.ModelProto, source: Path, call: dict[str, Any]) -> None:
    """Check that there are float32 weights inside.

    Raises:
        ArgumentError: if there are none.
        UnsupportedOpError: if they are of another dtype.
    """
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in WEIGHTS]
    fixed = [node.input[WEIGHTS[node.op_type]] for node in nodes if node.input[WEIGHTS[node.op_type]] in kinds]
    if not nodes:
        raise ArgumentError(f"{source} has no {', '.join(WEIGHTS)}: there is nothing to quantise")
    if not fixed:
        free = [(i, a["name"]) for i, a in enumerate(call["arguments"]) if not a["baked"]]
        raise ArgumentError(
            f"no weight is inside {source}, so none can be made 8-bit: {', '.join(name for _, name in free)} are all "
            f"inputs; export it with its parameters fixed, for example bake=({free[0][0]},) for {free[0][1]}"
        )
    other = next((name for name in fixed if kinds[name] != onnx.TensorProto.FLOAT), None)
    if other is not None:
        dtype = onnx.TensorProto.DataType.Name(kinds[other]).lower()
        raise UnsupportedOpError(
            f"the weight {other} of {source} is {dtype}; ONNX Runtime's quantiser takes float32: export it in that",
            op="quantize",
            dtype=dtype,
        )


def excluded(model: onnx.ModelProto, original: onnx.ModelProto, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the nodes that a pattern fits, by name or by block path."""
    if isinstance(patterns, str):
        raise ArgumentError(f"exclude must be a tuple of patterns, got {patterns!r}; write exclude=({patterns!r},)")
    paths = {
        node.name: entry.value for node in original.graph.node for entry in node.metadata_props if entry.key == "path"
    }
    found: dict[str, None] = {}
    for pattern in patterns:
        fitting = [
            node.name
            for node in model.graph.node
            if any(fnmatch.fnmatchcase(text, pattern) for text in (node.name, paths.get(node.name, "")))
        ]
        if not fitting:
            known = sorted(
                {text for node in model.graph.node for text in (node.name, paths.get(node.name, "")) if text}
            )
            raise ArgumentError(f"exclude: no node or block is named {pattern!r}{nearest(pattern, known)}")
        found.update(dict.fromkeys(fitting))
    return tuple(found)


def restore(model: onnx.ModelProto, original: onnx.ModelProto, how: dict[str, Any]) -> None:
    """Put back what makes the file ours: call, names, source lines, producer; and say that it is quantised."""
    for field in ("input", "output"):
        values = getattr(model.graph, field)
        del values[:]
        values.extend(getattr(original.graph, field))
    del model.graph.value_info[:]
    model.graph.name = original.graph.name
    sources = {node.name: node.metadata_props for node in original.graph.node if node.name}
    for node in model.graph.node:
        if node.name in sources and not node.metadata_props:
            node.metadata_props.extend(sources[node.name])
    del model.metadata_props[:]
    model.metadata_props.extend(entry for entry in original.metadata_props if entry.key != protobuf_wire.DIGEST_KEY)
    model.metadata_props.add(key=protobuf_wire.QUANTIZED_KEY, value=json.dumps(how, separators=(",", ":")))
    model.producer_name, model.producer_version = original.producer_name, original.producer_version
    domains = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(kept)
