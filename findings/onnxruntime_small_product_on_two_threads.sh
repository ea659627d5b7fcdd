#!/usr/bin/env bash
# ONNX Runtime shares a product of a few microseconds among its threads, which takes longer than one thread needs.
#
# Guess: a second thread is asked only where it saves time, so that two threads are never slower than one.
# Seen: the CPU, a chain of 20 products of 32×64 by 64×64: 1.2 to 1.5 times as long with two threads as with one; 256×128 by 128×128 is faster
#       with two. Sharing begins at 65,536 multiplications. Same values.
#
# Versions: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6, CPU with two cores or more, Python 3.11. Seen on 2026-11-30.
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

PRODUCTS = 20


def timed(rows, width, threads):
    """Return the least time of one product in a chain of them."""
    rng = np.random.default_rng(0)
    w, _ = np.linalg.qr(rng.standard_normal((width, width)))
    feeds = {"y0": rng.standard_normal((rows, width), np.float32), "w": w.astype(np.float32)}
    nodes = [helper.make_node("Gemm", [f"y{i}", "w"], [f"y{i + 1}"]) for i in range(PRODUCTS)]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feeds.items()]
    outputs = [helper.make_tensor_value_info(f"y{PRODUCTS}", TensorProto.FLOAT, [rows, width])]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    times = []
    for _ in range(300):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return min(times) / PRODUCTS


for rows, width in ((32, 64), (256, 128)):
    one, two = timed(rows, width, 1), timed(rows, width, 2)
    print(f"{rows}×{width} by {width}×{width}: one thread {1e6 * one:.1f} µs, two {1e6 * two:.1f} µs: {two / one:.2f} times")
    if rows == 32:
        assert two / one > 1.1
PYTHON
