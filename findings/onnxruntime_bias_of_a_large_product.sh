#!/usr/bin/env bash
# ONNX Runtime's Gemm with a bias is slower than a Gemm without one and an Add behind it, where the result is large.
#
# Guess: the product adds its bias while it writes the result, so that the bias costs nothing and an Add costs a pass.
# Seen: two threads on the CPU, 256×32 by 32×512: with the bias 1.2 to 1.3 times as long as Gemm and Add together. The bias is written to the
#       whole result first, on one thread, and the product is added to that; an Add shares its pass among the threads. Same values.
#
# Versions: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-30.
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import time

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper

ROWS, INNER, COLUMNS = 256, 32, 512
rng = np.random.default_rng(0)
feeds = {
    "a": rng.standard_normal((ROWS, INNER), np.float32),
    "b": rng.standard_normal((INNER, COLUMNS), np.float32),
    "bias": rng.standard_normal(COLUMNS, np.float32),
}
FORMS = {
    "Gemm with bias": [helper.make_node("Gemm", ["a", "b", "bias"], ["y"])],
    "Gemm, Add": [helper.make_node("Gemm", ["a", "b"], ["p"]), helper.make_node("Add", ["p", "bias"], ["y"])],
}


def session(nodes):
    """Return a session that runs the nodes as they are."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feeds.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [ROWS, COLUMNS])]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


sessions = {name: session(nodes) for name, nodes in FORMS.items()}
times = {name: [] for name in FORMS}
results = {}
for _ in range(400):
    for name, one in sessions.items():
        start = time.perf_counter()
        (results[name],) = one.run(None, feeds)
        times[name].append(time.perf_counter() - start)
inside, behind = (min(times[name]) for name in FORMS)
assert np.abs(results["Gemm with bias"] - results["Gemm, Add"]).max() < 1e-4
print(f"bias inside {1e3 * inside:.2f} ms, behind {1e3 * behind:.2f} ms: {inside / behind:.2f} times")
assert inside / behind > 1.1
PYTHON
