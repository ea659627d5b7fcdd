#!/usr/bin/env bash
# ONNX Runtime's convolution is several times slower when its weight is an input of the model than when it is stored in it.
#
# Guess: a 3×3 convolution of 8 maps of 512 channels and 2×2 positions takes the same time, but for reading the weight in another order.
# Seen: one thread on the CPU: 3 to 5 times as long with the weight as an input, and 1.2 to 3 times for 64 channels and 16×16 positions. Only
#       stored weights are given to the kernels with channels in blocks; an input's windows are unfolded, image by image. Same values.
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


def timed(x, weight, stored):
    """Return the result and the least time of a call."""
    feeds = {"x": x} if stored else {"x": x, "w": weight}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feeds.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)]
    kept = [numpy_helper.from_array(weight, "w")] if stored else []
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], "g", inputs, outputs, kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    times = []
    for _ in range(30):
        start = time.perf_counter()
        y = session.run(None, feeds)[0]
        times.append(time.perf_counter() - start)
    return y, min(times)


rng = np.random.default_rng(0)
ratios = []
for channels, positions in ((512, 2), (64, 16)):
    x = rng.standard_normal((8, channels, positions, positions), np.float32)
    weight = rng.standard_normal((channels, channels, 3, 3), np.float32)
    (slow_y, slow), (fast_y, fast) = timed(x, weight, False), timed(x, weight, True)
    assert np.abs(slow_y - fast_y).max() < 1e-3 * np.abs(fast_y).max()
    ratios.append(slow / fast)
    print(f"{channels} channels, {positions}×{positions}: input {1e3 * slow:.2f} ms, stored {1e3 * fast:.2f} ms: {slow / fast:.1f} times")
assert ratios[0] > 1.5
PYTHON
