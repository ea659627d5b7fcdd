#!/usr/bin/env bash
# ONNX Runtime's MaxPool is many times slower when its second output, the indices, is read as well.
#
# Guess: where a maximum lies is known when it is found, so indices cost little more than their writing: twice the time at most.
# Seen: one thread on the CPU: windows of 3×3, stride 2 and padding 1 over 8×64 maps of 32×32: 10 to 25 times as long with indices; same
#       values. Training and every gradient of a max-pool in a file need the indices.
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


def timed(x, names):
    """Return the maxima and the least time of a call."""
    kinds = {"y": TensorProto.FLOAT, "i": TensorProto.INT64}
    node = helper.make_node("MaxPool", ["x"], names, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    outputs = [helper.make_tensor_value_info(name, kinds[name], (8, 64, 16, 16)) for name in names]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    times = []
    for _ in range(50):
        start = time.perf_counter()
        y = session.run(None, {"x": x})[0]
        times.append(time.perf_counter() - start)
    return y, min(times)


x = np.random.default_rng(0).standard_normal((8, 64, 32, 32), np.float32)
(alone, fast), (both, slow) = timed(x, ["y"]), timed(x, ["y", "i"])
print(f"maxima {1e3 * fast:.2f} ms, with indices {1e3 * slow:.2f} ms: {slow / fast:.0f} times")
assert (alone == both).all()
assert slow > 4 * fast
PYTHON
