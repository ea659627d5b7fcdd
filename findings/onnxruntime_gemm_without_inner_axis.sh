#!/usr/bin/env bash
# ONNX Runtime's Gemm ignores beta where the two matrices share an axis of length 0.
#
# Guess: alpha A B + beta C is beta C where A B sums no terms.
# Seen: with A of shape (2, 0), B of shape (0, 3), C = 4 and beta = 0.5, ONNX Runtime on the CPU returns 4, onnx's reference
# evaluator 2; with a shared axis of length 1 and matrices of zeros both return 2.
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

ranks = {"a": 2, "b": 2, "c": 1}
inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in ranks.items()]
output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])
graph = helper.make_graph([helper.make_node("Gemm", ["a", "b", "c"], ["y"], beta=0.5)], "g", inputs, [output])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
checker.check_model(model)
session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
for length in (0, 1):
    feeds = {
        "a": np.zeros((2, length), np.float32),
        "b": np.zeros((length, 3), np.float32),
        "c": np.full(3, 4, np.float32),
    }
    runtime, reference = session.run(None, feeds)[0], ReferenceEvaluator(model).run(None, feeds)[0]
    print(f"shared axis of length {length}: ONNX Runtime {runtime[0, 0]}, reference {reference[0, 0]}")
    assert np.all(reference == 2)
    assert np.all(runtime == (4 if length == 0 else 2))
PYTHON
