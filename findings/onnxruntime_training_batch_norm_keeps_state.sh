#!/usr/bin/env bash
# A session with a BatchNormalization in training mode remembers the running statistics of earlier calls.
#
# Guess: a session is a function of its inputs, so that the same call twice gives the same running mean; that holds
# for every other operator of the standard. Seen: where the running mean and variance are only read inside the graph,
# each call starts from the statistics that the one before it left behind (the kernel writes over the initializers),
# so that call n returns n steps of the moving average.
#
# Versions: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-28:
#   running mean after one step: 0.2, returned by calls 1 to 3: 0.2, 0.38, 0.542
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
constants = [numpy_helper.from_array(np.full(1, value, np.float32), name) for name, value in zip("sbmv", (1, 0, 0, 1))]
nodes = [
    helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["n", "rm", "rv"], training_mode=1, momentum=0.9),
    helper.make_node("Mul", ["rm", "one"], ["y"]),
    helper.make_node("Add", ["rv", "one"], ["z"]),
]
constants.append(numpy_helper.from_array(np.float32(1), "one"))
x = helper.make_tensor_value_info("x", FLOAT, [4, 1])
outputs = [helper.make_tensor_value_info(name, FLOAT, [1]) for name in "yz"]
graph = helper.make_graph(nodes, "running_mean", [x], outputs, constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
onnx.checker.check_model(model, full_check=True)
session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
data = np.array([[1.0], [3.0], [0.0], [4.0]], np.float32)
found = [float(session.run(["y"], {"x": data})[0][0]) for _ in range(3)]
print("running mean after one step: 0.2, returned by calls 1 to 3:", ", ".join(f"{value:.3g}" for value in found))
assert np.isclose(found[0], 0.2)
assert np.allclose(found, [0.2, 0.38, 0.542]), "calls are independent now, or drift in another way"
PYTHON
