#!/usr/bin/env bash
# onnxscript's optimiser writes an invalid model where one value is clamped twice by Max and Min.
#
# Guess: Min(Max(x, 0), 1) + Min(Max(x, -1), 2) stays a valid model with the same values.
# Seen: each pair becomes a Clip whose bounds are named after x, "x_min" and "x_max", for both pairs alike; one pair's are then dropped, and
#       the model names an input that nothing produces. ONNX Runtime refuses it. torch.onnx.export writes clamps as Max and Min and runs
#       this optimiser by default: its file of clamp(x, 0, 1) + clamp(x, -1, 2) is refused alike.
#
# Versions: onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.31.1, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-30.
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper
from onnxscript import optimizer

BOUNDS = {"a": 0.0, "b": 1.0, "c": -1.0, "d": 2.0}


def clamp(low, high, result):
    return [
        helper.make_node("Max", ["x", low], [f"{result}_low"]),
        helper.make_node("Min", [f"{result}_low", high], [result]),
    ]


values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
nodes = [*clamp("a", "b", "p"), *clamp("c", "d", "q"), helper.make_node("Add", ["p", "q"], ["y"])]
constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [bound]) for name, bound in BOUNDS.items()]
graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
checker.check_model(model, full_check=True)
x = np.linspace(-2, 3, 6, dtype=np.float32)
result = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
assert np.array_equal(result, np.clip(x, 0, 1) + np.clip(x, -1, 2))
after = optimizer.optimize(model)
produced = {"x", *(tensor.name for tensor in after.graph.initializer), *(o for node in after.graph.node for o in node.output)}
missing = [name for node in after.graph.node for name in node.input if name not in produced]
print("after:", [(node.op_type, list(node.input)) for node in after.graph.node], "nothing produces", missing)
assert missing
try:
    checker.check_model(after)
except checker.ValidationError as error:
    print("checker:", str(error).splitlines()[0])
else:
    raise SystemExit("the checker accepts it")
PYTHON
