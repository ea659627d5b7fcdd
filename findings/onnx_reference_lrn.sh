#!/usr/bin/env bash
# onnx's ReferenceEvaluator normalises only as many channels of LRN as the batch has samples.
#
# Guess: the reference evaluator is the standard in code, so that it can be the third opinion when two runtimes
# disagree. Seen: for LocalResponseNormalization it fills in the sum of squares for channels 0 to N-1, N being the
# batch size; all later channels are divided by the bias alone. PyTorch and ONNX Runtime agree with the formula. With
# at least as many samples as channels nothing shows.
#
# Versions: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-28:
#   2 samples of 8 channels: error by channel, reference evaluator [0, 0, 14.9, 13.6, 21.9, 18.9, 16.6, 23], ONNX Runtime below 1e-05
#   8 samples of 8 channels: largest error 1.46e-07
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


def errors(samples):
    node = helper.make_node("LRN", ["x"], ["y"], size=3, alpha=0.5, beta=0.75, bias=1.0)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [samples, 8, 3, 3]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph([node], "lrn", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.checker.check_model(model, full_check=True)
    x = (np.random.default_rng(0).standard_normal((samples, 8, 3, 3)) * 10).astype(np.float32)
    squares = np.pad(x.astype(np.float64) ** 2, ((0, 0), (1, 1), (0, 0), (0, 0)))
    exact = x / (1 + 0.5 / 3 * (squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:])) ** 0.75
    reference = ReferenceEvaluator(model).run(None, {"x": x})[0]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.abs(y - exact).max((0, 2, 3)) for y in (reference, session.run(None, {"x": x})[0])]


reference, runtime = errors(2)
shown = ", ".join(f"{value:.3g}" if value > 1e-5 else "0" for value in reference)
print(f"2 samples of 8 channels: error by channel, reference evaluator [{shown}], ONNX Runtime below {1e-5:.0e}")
assert runtime.max() < 1e-5
assert (reference[:2] < 1e-5).all() and (reference[2:] > 1).all(), "the reference evaluator is right now"
reference, runtime = errors(8)
print(f"8 samples of 8 channels: largest error {reference.max():.3g}")
assert reference.max() < 1e-5
PYTHON
