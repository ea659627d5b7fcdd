"""Which operators ONNX Runtime's CUDA provider takes in which dtype: `python -m parity_tests.cuda_kernels`.

A model of one node for every operator, dtype and opset is placed on the stand-in for CUDA, by the provider's own code.
The answers are written to `export/devices/cuda_kernels.json`, which `to_onnx(…, target="cuda")` reads; a test compares
them with the installed ONNX Runtime.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import TensorProto, defs, helper

import export.devices
from parity_tests import cuda_standin

__all__ = ["OPSETS", "PATH", "kernels", "main", "on_the_stand_in"]

PATH = Path(export.devices.__file__).with_name("cuda_kernels.json")
OPSETS = range(18, 24)
DTYPES = {
    "float32": ("float", TensorProto.FLOAT),
    "float16": ("float16", TensorProto.FLOAT16),
    "bfloat16": ("bfloat16", TensorProto.BFLOAT16),
    "float64": ("double", TensorProto.DOUBLE),
    "int64": ("int64", TensorProto.INT64),
    "int32": ("int32", TensorProto.INT32),
    "int16": ("int16", TensorProto.INT16),
    "int8": ("int8", TensorProto.INT8),
    "uint8": ("uint8", TensorProto.UINT8),
    "bool": ("bool", TensorProto.BOOL),
}
BY_TEXT = {f"tensor({text})": kind for text, kind in DTYPES.values()}
LIKELY = (TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL)
"""What other inputs of a node are, where the operator leaves the choice."""

LEFT_OUT = frozenset(
    {"If", "Loop", "Scan", "SequenceMap", "Constant", "CenterCropPad", "TfIdfVectorizer", "MaxRoiPool"}
)
"""Operators with bodies or without inputs, and those that need more than a node by itself."""

WINDOW = {"kernel_shape": [2, 2]}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "AveragePool": WINDOW,
    "BitShift": {"direction": "LEFT"},
    "Cast": {"to": TensorProto.FLOAT},
    "Concat": {"axis": 0},
    "DepthToSpace": {"blocksize": 2},
    "Einsum": {"equation": "ij->ji"},
    "GRU": {"hidden_size": 2},
    "GroupNormalization": {"num_groups": 1},
    "LRN": {"size": 3},
    "LpPool": WINDOW,
    "MaxPool": WINDOW,
    "MaxUnpool": WINDOW,
    "Multinomial": {"sample_size": 1},
    "SpaceToDepth": {"blocksize": 2},
    "Split": {"num_outputs": 2},
}
GIVEN = {"Clip": 3, "Resize": 3}
"""How many inputs a node gets, where its optional ones matter."""

RESIZED = {2: helper.make_tensor("scales", TensorProto.FLOAT, [4], [1.0, 1.0, 2.0, 2.0])}


def key_input(schema: defs.OpSchema) -> int | None:
    """Return the first input that an operator takes in several dtypes."""
    choices = {one.type_param_str: set(one.allowed_type_strs) & set(BY_TEXT) for one in schema.type_constraints}
    return next((i for i, one in enumerate(schema.inputs) if len(choices.get(one.type_str, ())) > 1), None)


def model(schema: defs.OpSchema, opset: int, kind: int) -> bytes | None:
    """Return a model of one node whose key input has an element type; None where the operator does not take it."""
    choices = {
        one.type_param_str: [BY_TEXT[text] for text in one.allowed_type_strs if text in BY_TEXT]
        for one in schema.type_constraints
    }
    key = key_input(schema)
    if key is None or kind not in choices[schema.inputs[key].type_str]:
        return None
    kinds = {schema.inputs[key].type_str: kind}
    inputs = []
    for i, formal in enumerate(schema.inputs[: GIVEN.get(schema.name)]):
        if formal.option == defs.OpSchema.FormalParameterOption.Optional and schema.name not in GIVEN:
            continue
        allowed = choices.get(formal.type_str) or [BY_TEXT.get(formal.type_str, 0)]
        chosen = next((one for one in (kind, *LIKELY) if one in allowed), allowed[0])
        chosen = kinds.setdefault(formal.type_str, chosen)
        inputs.append((f"i{i}", chosen))
        if formal.option == defs.OpSchema.FormalParameterOption.Variadic:
            inputs.append((f"i{i}.more", chosen))
    if not all(chosen for _, chosen in inputs):
        return None
    names = [name for name, _ in inputs]
    constants = []
    if schema.name == "Resize":
        names, inputs, constants = ["i0", "", "scales"], inputs[:1], list(RESIZED.values())
    outputs = [f"o{i}" for i in range(max(1, schema.min_output))]
    node = helper.make_node(schema.name, names, outputs, name="probe", **ATTRIBUTES.get(schema.name, {}))
    shape = [1, 1, 4, 4] if schema.name == "Resize" else None
    graph = helper.make_graph(
        [node],
        "probe",
        [helper.make_tensor_value_info(name, chosen, shape) for name, chosen in inputs],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        constants,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return bytes(proto.SerializeToString())


def taken(proto: bytes) -> bool:
    """Tell whether the CUDA provider takes all nodes of a model; in a process on the stand-in."""
    from export.runtime import sessions  # ONNX Runtime, after torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = sessions.SILENT
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = [sessions.CUDA, sessions.CPU]
    try:
        session = onnxruntime.InferenceSession(proto, options, providers=providers, enable_fallback=0)
    except sessions.ERRORS:  # no kernel on either side, or what only a larger model has
        return False
    parts = session.get_provider_graph_assignment_info()
    return {part.ep_name for part in parts if part.get_nodes()} == {sessions.CUDA}


def kernels() -> dict[str, dict[str, Any]]:
    """Return {operator: {"input": which input's dtype decides, opset from which it holds: dtypes}}."""
    names = sorted({one.name for one in defs.get_all_schemas() if not one.domain} - LEFT_OUT)
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        last = None
        for opset in OPSETS:
            if not defs.has(name, opset, ""):
                continue
            schema = defs.get_schema(name, opset, "")
            if schema.deprecated or key_input(schema) is None:
                continue
            models = {dtype: model(schema, opset, kind) for dtype, (_, kind) in DTYPES.items()}
            held = " ".join(dtype for dtype, proto in models.items() if proto is not None and taken(proto))
            if held != last:
                found.setdefault(name, {"input": key_input(schema)})[str(opset)] = held
                last = held
    return found


def on_the_stand_in() -> dict[str, Any]:
    """Return the table for the installed ONNX Runtime."""
    done = cuda_standin.python("import json, parity_tests.cuda_kernels as m; print(json.dumps(m.kernels()))")
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return {"onnxruntime": onnxruntime.__version__, "kernels": json.loads(done.stdout)}


def main() -> None:
    """Write the table."""
    table = on_the_stand_in()
    rows = [f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in table["kernels"].items()]
    text = f'{{"onnxruntime": "{table["onnxruntime"]}", "kernels": {{\n' + ",\n".join(rows) + "\n}}\n"
    PATH.write_text(text, encoding="utf-8")
    print(f"wrote {PATH}: {len(rows)} operators", file=sys.stderr)


if __name__ == "__main__":
    main()
