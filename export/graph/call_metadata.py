"""What a file's metadata says of its call: argument names and structures, leaves, dynamic sizes, versions."""

from __future__ import annotations

import json
from typing import Any

import onnx

from export.files.call_schema import FORMAT
from export.files.protobuf_wire import CALL_KEY
from export.graph.onnx_types import dtype_name
from export.runtime.environment import version_of
from export.trace.aten_graph import Traced

__all__ = ["decided_branches", "describe_call"]


def describe_call(traced: Traced, baked: frozenset[int]) -> dict[str, Any]:
    """Return everything that rebuilds the call from the file alone, as plain data.

    Args:
        traced: the recorded function.
        baked: positions of the arguments that are inside the file.
    """
    arguments = traced.arguments
    leaves = [
        {
            "name": name,
            "dtype": dtype_name(leaf.dtype),
            "shape": [arguments.axes[i].get(axis, int(size)) for axis, size in enumerate(leaf.shape)],
            "baked": arguments.owner[i] in baked,
        }
        for i, (name, leaf) in enumerate(zip(arguments.leaf_names, arguments.leaves, strict=True))
    ]
    outputs = [
        {"name": name, "dtype": dtype_name(x.dtype), "shape": [traced.sizes.dimension(size) for size in x.shape]}
        for name, x in zip(traced.out_names, traced.outputs, strict=True)
    ]
    decided = {"decided": list(traced.decided)} if traced.decided else {}
    return {
        "format": FORMAT,
        "digest": True,  # so that a file that lost its digest is known for one
        "function": traced.name,
        "arguments": [
            {"name": name, "structure": structure, "baked": i in baked}
            for i, (name, structure) in enumerate(zip(arguments.names, arguments.structures, strict=True))
        ],
        "leaves": leaves,
        "out": {"structure": traced.out_structure, "leaves": outputs},
        "dynamic": sorted(traced.sizes.named),
        **decided,
        "versions": {name: version_of(name) or "unknown" for name in ("pure-export", "torch", "onnx", "onnx-ir")},
    }


def decided_branches(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return what a model's metadata says of Python branches on tensors' values; see `Exported.decided`."""
    (call,) = (json.loads(entry.value) for entry in model.metadata_props if entry.key == CALL_KEY)
    return tuple(call.get("decided", ()))
