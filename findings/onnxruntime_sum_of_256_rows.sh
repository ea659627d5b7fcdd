#!/usr/bin/env bash
# ONNX Runtime's ReduceSum over the rows of a matrix takes several times as long for 256 rows as for 257.
#
# Guess: the time grows with the rows, so that 257 take as long as 256; a product with a row of ones, which does more, is slower than both.
# Seen: one thread on the CPU, 128 columns: 256 rows take 4 to 7 times as long as 257, and 4 to 5 times as long as MatMul of ones [1, 256]
#       with the matrix, which gives the same sums.
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
from onnx import TensorProto, checker, helper, numpy_helper

COPIES = 20


def timed(rows, columns, by_product):
    """Return one sum and the least time of one of many in a model."""
    nodes, inputs, outputs = [], [], []
    for i in range(COPIES):
        made = helper.make_node("MatMul", ["ones", f"x{i}"], [f"y{i}"])
        if not by_product:
            made = helper.make_node("ReduceSum", [f"x{i}", "axes"], [f"y{i}"], keepdims=1)
        nodes.append(made)
        inputs.append(helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [rows, columns]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [1, columns]))
    stored = numpy_helper.from_array(np.ones((1, rows), np.float32), "ones") if by_product else numpy_helper.from_array(np.array([0]), "axes")
    graph = helper.make_graph(nodes, "g", inputs, outputs, [stored])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {f"x{i}": rng.standard_normal((rows, columns), np.float32) for i in range(COPIES)}
    times = []
    for _ in range(100):
        start = time.perf_counter()
        y = session.run(None, feeds)[0]
        times.append(time.perf_counter() - start)
    return y, min(times) / COPIES


COLUMNS = 128
short_y, short = timed(256, COLUMNS, False)
_, long = timed(257, COLUMNS, False)
product_y, product = timed(256, COLUMNS, True)
assert np.abs(short_y - product_y).max() < 1e-5 * np.abs(product_y).max()
print(f"256 rows {1e6 * short:.1f} µs, 257 rows {1e6 * long:.1f} µs: {short / long:.1f} times; product {1e6 * product:.1f} µs: {short / product:.1f} times")
assert short / long > 1.5
assert short / product > 1.5
PYTHON
