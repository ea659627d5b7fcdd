#!/usr/bin/env bash
# ONNX Runtime broadcasts a float32 operand along a short last axis many times slower than along a short first one.
#
# Guess: a product of as many numbers takes about as long whichever axis of length 2 an operand is broadcast along.
# Seen: (65536, 2) times (65536, 1) takes 14 to 17 times as long as (2, 65536) times (1, 65536) on the CPU; along 64 the two are near.
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


def seconds(left, right):
    """Median time of a product of two float32 arrays."""
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("a", left), ("b", right))
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])
    graph = helper.make_graph([helper.make_node("Mul", ["a", "b"], ["y"])], "g", sides, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {"a": rng.random(left, np.float32), "b": rng.random(right, np.float32)}
    assert np.array_equal(session.run(None, feeds)[0], feeds["a"] * feeds["b"])
    times = []
    for _ in range(100):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return float(np.median(times[10:]))


for length in (2, 4, 64):
    rows = 2**17 // length
    last, first = seconds([rows, length], [rows, 1]), seconds([length, rows], [1, rows])
    print(f"{2**17} products, broadcast along {length}: {last / first:.1f} times as long with that axis last as with it first")
    if length == 2:
        assert last > 4 * first
PYTHON
