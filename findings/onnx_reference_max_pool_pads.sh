#!/usr/bin/env bash
# onnx's ReferenceEvaluator pads MaxPool wrongly: other sizes, shifted values without an error, or IndexError.
#
# Guess: the reference evaluator gives the sizes that ONNX's own shape inference gives, and ONNX Runtime's values.
# Seen: in two dimensions ceil_mode=1 counts padding twice (6×6 padded by 1 on each side, windows of 2×2: 9×9 results for 7×7), and
#       pads = [rows before, columns before, rows after, columns after] are read in pairs: [0, 1, 0, 1] gives 6×6 for 5×7. In one
#       dimension, pads = [1, 0] give IndexError with ceil_mode=0, and with ceil_mode=1 values moved by one, without an error.
#
# Versions: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-30.
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, shape_inference
from onnx.reference import ReferenceEvaluator


def run(x, pads, ceil):
    """Return the inferred sizes, ONNX Runtime's result and the reference evaluator's, or its error's name."""
    rank = x.ndim - 2
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2] * rank, pads=pads, ceil_mode=ceil)
    value = helper.make_tensor_value_info
    graph = helper.make_graph([node], "g", [value("x", TensorProto.FLOAT, x.shape)], [value("y", TensorProto.FLOAT, [None] * x.ndim)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    checker.check_model(model)
    inferred = shape_inference.infer_shapes(model, strict_mode=True).graph.output[0].type.tensor_type.shape.dim
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    truth = session.run(None, {"x": x})[0]
    assert truth.shape == tuple(axis.dim_value for axis in inferred)
    try:
        found = ReferenceEvaluator(model).run(None, {"x": x})[0]
    except IndexError as error:
        found = type(error).__name__
    print(f"pads {pads}, ceil_mode {ceil}: {truth.shape} {truth.ravel()[:6].round(2)} by ONNX Runtime, ", end="")
    print(found if isinstance(found, str) else f"{found.shape} {found.ravel()[:6].round(2)}", "by the reference evaluator")
    return truth, found


line = np.arange(1, 7, dtype=np.float32)[None, None]
truth, found = run(line, [0, 0], 0)
assert np.array_equal(truth, found)
truth, found = run(line, [1, 0], 0)
assert found == "IndexError"
truth, found = run(line, [1, 0], 1)
assert truth.shape == found.shape and not np.array_equal(truth, found)
image = np.random.default_rng(0).random((1, 1, 6, 6), np.float32)
truth, found = run(image, [1, 1, 1, 1], 0)
assert np.array_equal(truth, found)
truth, found = run(image, [1, 1, 1, 1], 1)
assert truth.shape == (1, 1, 7, 7) and found.shape == (1, 1, 9, 9)
truth, found = run(image, [0, 1, 0, 1], 0)
assert truth.shape == (1, 1, 5, 7) and found.shape == (1, 1, 6, 6)
PYTHON
