#!/usr/bin/env bash
# ONNX Runtime resizes by cubic interpolation many times slower than the two matrix products that it equals.
#
# Guess: doubling 4×8 images of 64×64 takes cubic Resize a small multiple of what linear Resize takes, and no longer than products with a
#        128×64 matrix from the left and from the right, which do 64 multiplications for each of the cubic's 4.
# Seen: one thread on the CPU: cubic takes 40 to 70 times as long as the products, and 80 to 100 times as long as linear; the values agree.
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


def session(nodes, before, after, **constants):
    """Open a model from x to y on one thread."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, before)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, after)]
    kept = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def timed(opened, x):
    """Return the result and the median time of a call."""
    times = []
    for _ in range(20):
        start = time.perf_counter()
        y = opened.run(None, {"x": x})[0]
        times.append(time.perf_counter() - start)
    return y, float(np.median(times[5:]))


def resize(mode, before, after):
    scales = np.array([b / a for a, b in zip(before, after)], np.float32)
    return session([helper.make_node("Resize", ["x", "", "s"], ["y"], mode=mode)], before, after, s=scales)


x = np.random.default_rng(0).random((4, 8, 64, 64), np.float32)
doubled = (4, 8, 128, 128)
rows = resize("cubic", (1, 1, 64, 64), (1, 1, 128, 64)).run(None, {"x": np.eye(64, dtype=np.float32)[None, None]})[0][0, 0]
nodes = [helper.make_node("MatMul", ["m", "x"], ["h"]), helper.make_node("MatMul", ["h", "t"], ["y"])]
cubic, slow = timed(resize("cubic", x.shape, doubled), x)
product, fast = timed(session(nodes, x.shape, doubled, m=rows, t=np.ascontiguousarray(rows.T)), x)
_, linear = timed(resize("linear", x.shape, doubled), x)
print(f"cubic {1e3 * slow:.1f} ms: {slow / fast:.0f} times the two products, {slow / linear:.0f} times linear")
assert np.abs(cubic - product).max() < 1e-5
assert slow > 10 * fast and slow > 10 * linear
PYTHON
