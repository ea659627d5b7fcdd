#!/usr/bin/env bash
# onnx's ReferenceEvaluator divides by the plain sum in LpNormalization with p=1.
#
# Guess: LpNormalization with p=1 divides by the sum of absolute values, as the operator's text says and ONNX Runtime
# does. Seen: the reference evaluator forgets the absolute value, so that rows with both signs come out wrong (even
# above 1), and a row whose values cancel comes out as 0. For p=2 it is right.
#
# Versions: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-28:
#   p=1: reference [0.75, -0.25, 0.5], ONNX Runtime [0.5, -0.167, 0.333]
#   p=2: both [0.802, -0.267, 0.535]
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
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

x = np.array([[3.0, -1.0, 2.0]], np.float32)
found = {}
for p in (1, 2):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("LpNormalization", ["x"], ["y"], axis=1, p=p)], "lp", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found[p] = ReferenceEvaluator(model).run(None, {"x": x})[0][0], session.run(None, {"x": x})[0][0]
    assert np.allclose(found[p][1], x[0] / np.linalg.norm(x[0], p))


def shown(row):
    return "[" + ", ".join(f"{value:.3g}" for value in row) + "]"


print(f"p=1: reference {shown(found[1][0])}, ONNX Runtime {shown(found[1][1])}")
print(f"p=2: both {shown(found[2][0])}")
assert np.allclose(*found[2])
assert np.allclose(found[1][0], x[0] / x.sum()), "the reference evaluator is right now"
PYTHON
