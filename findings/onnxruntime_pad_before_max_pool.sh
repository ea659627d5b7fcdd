#!/usr/bin/env bash
# ONNX Runtime fuses a Pad with zeros into the MaxPool behind it, which then pads with minus infinity.
#
# Guess: Pad(0) followed by MaxPool gives max(0, window) at the border, at every optimisation level. Seen: at the
# default level the border windows lose the zeros. Where the values are negative (behind a norm, for example), the
# session returns other numbers than the standard asks for, and says nothing. Without graph optimisations, or with the
# optimiser "Pad_Fusion" disabled, the numbers are right.
#
# Versions: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-28:
#   all optimisations: [-1. -1. -1. -1.]
#   no optimisation:   [ 0.  0.  0. -1.]
#   Pad_Fusion off:    [ 0.  0.  0. -1.]
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
from onnx import TensorProto, helper, numpy_helper

pads = numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads")
nodes = [
    helper.make_node("Pad", ["x", "pads"], ["padded"]),
    helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[3, 3], strides=[2, 2]),
]
x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])
y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])
graph = helper.make_graph(nodes, "pad_then_pool", [x], [y], [pads])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
onnx.checker.check_model(model, full_check=True)


def run(level, disabled=()):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )
    return session.run(None, {"x": -np.ones((1, 1, 4, 4), np.float32)})[0].ravel()


levels = ort.GraphOptimizationLevel
fused, plain = run(levels.ORT_ENABLE_ALL), run(levels.ORT_DISABLE_ALL)
without = run(levels.ORT_ENABLE_ALL, ["Pad_Fusion"])
print("all optimisations:", fused)
print("no optimisation:  ", plain)
print("Pad_Fusion off:   ", without)
expected = np.array([0.0, 0.0, 0.0, -1.0])
assert np.array_equal(plain, expected) and np.array_equal(without, expected)
assert np.array_equal(fused, -np.ones(4)), "the fusion pads with zeros now, or is gone"
PYTHON
