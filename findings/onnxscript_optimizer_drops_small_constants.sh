#!/usr/bin/env bash
# onnxscript's optimiser removes an addition of 1e-12, so that log(x + 1e-12) of 0 becomes minus infinity.
#
# Guess: an optimiser removes x + c only where c is exactly 0. Seen: it compares with a tolerance that suits numbers
# near 1: every |c| up to 1e-8 counts as 0, and every factor within 1e-5 of 1 counts as 1. An epsilon that guards a
# logarithm or a square root is gone; torch.onnx.export runs this optimiser by default.
#
# Versions: onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.31.1, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-28:
#   x + 1e-12: Add, Log before, Log after; log(0 + 1e-12) = -27.6 before, -inf after
#   x + 1.1e-08: Add, Log before, Add, Log after
#   x * 1.000009: Mul, Log before, Log after
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxscript import optimizer


def model(op, constant):
    nodes = [helper.make_node(op, ["x", "c"], ["z"]), helper.make_node("Log", ["z"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(np.float32(constant), "c")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def run(made):
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": np.zeros(1, np.float32)})[0][0])


def kinds(made):
    return ", ".join(node.op_type for node in made.graph.node)


dropped = {}
for op, constant in (("Add", 1e-12), ("Add", 1.1e-8), ("Mul", 1.000009)):
    before, after = model(op, constant), optimizer.optimize(model(op, constant))
    numbers = f"; log(0 + {constant}) = {run(before):.3g} before, {run(after):.3g} after" if constant == 1e-12 else ""
    print(f"x {'+' if op == 'Add' else '*'} {constant}: {kinds(before)} before, {kinds(after)} after{numbers}")
    dropped[op, constant] = len(after.graph.node) == 1
assert not dropped["Add", 1.1e-8]
assert dropped["Add", 1e-12] and dropped["Mul", 1.000009], "the optimiser keeps such constants now"
PYTHON
