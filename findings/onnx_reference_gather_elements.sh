#!/usr/bin/env bash
# onnx's reference evaluator refuses GatherElements along axis -1 where the indices have another length than the data.
#
# Guess: axis -1 of a matrix is axis 1, as the standard says of GatherElements.
# Seen: along axis 1 the reference evaluator gives ONNX Runtime's values for indices of any length; along axis -1 it does
# so only where the indices have the data's shape, and ends in a ValueError otherwise.
#
# Versions: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-29.
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper
from onnx.reference import ReferenceEvaluator

data = np.arange(12, dtype=np.float32).reshape(3, 4)


def model(axis):
    shapes = {"data": TensorProto.FLOAT, "indices": TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(name, kind, [3, None]) for name, kind in shapes.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, None])
    node = helper.make_node("GatherElements", ["data", "indices"], ["y"], axis=axis)
    graph = helper.make_graph([node], "g", inputs, [output])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(made)
    return made


for axis in (1, -1):
    for length in (2, 4):
        feeds = {"data": data, "indices": np.random.default_rng(0).integers(0, 4, (3, length))}
        session = ort.InferenceSession(model(axis).SerializeToString(), providers=["CPUExecutionProvider"])
        runtime = session.run(None, feeds)[0]
        assert np.array_equal(runtime, np.take_along_axis(data, feeds["indices"], 1))
        try:
            reference = ReferenceEvaluator(model(axis)).run(None, feeds)[0]
            said = "equal" if np.array_equal(reference, runtime) else "another value"
        except ValueError as error:
            said = f"ValueError: {error}"
        print(f"axis {axis}, indices of length {length}: {said}")
        assert said.startswith("ValueError") if (axis, length) == (-1, 2) else said == "equal"
PYTHON
