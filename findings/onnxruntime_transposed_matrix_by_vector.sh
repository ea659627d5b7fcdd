#!/usr/bin/env bash
# ONNX Runtime computes MatMul(Transpose(x), v) wrongly where v has one axis.
#
# Guess: a Transpose in front of a MatMul is fused into it without a change of the numbers. Seen: with a vector as
# second factor the fused kernel returns a result of the right shape and of wrong numbers, at the default optimisation
# level, without a warning. Without optimisations, or with the vector as a matrix of one column, the product is right.
#
# Versions: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-28:
#   x of 3 by 5: largest error 0.999 fused, 3.77e-08 plain, 3.77e-08 as a column
#   x of 64 by 5: largest error 20.1 fused, 1.47e-06 plain, 1.47e-06 as a column
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

FLOAT = TensorProto.FLOAT
random = np.random.default_rng(0)


def session(rows, column, level):
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]), helper.make_node("MatMul", ["t", "v"], ["y"])]
    inputs = [
        helper.make_tensor_value_info("x", FLOAT, [rows, 5]),
        helper.make_tensor_value_info("v", FLOAT, [rows, 1] if column else [rows]),
    ]
    outputs = [helper.make_tensor_value_info("y", FLOAT, [5, 1] if column else [5])]
    graph = helper.make_graph(nodes, "transposed_product", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


levels = ort.GraphOptimizationLevel
for rows in (3, 64):
    x, v = random.standard_normal((rows, 5)).astype(np.float32), random.standard_normal(rows).astype(np.float32)
    expected = x.astype(np.float64).T @ v
    fused = session(rows, False, levels.ORT_ENABLE_ALL).run(None, {"x": x, "v": v})[0]
    plain = session(rows, False, levels.ORT_DISABLE_ALL).run(None, {"x": x, "v": v})[0]
    column = session(rows, True, levels.ORT_ENABLE_ALL).run(None, {"x": x, "v": v[:, None]})[0].ravel()
    errors = [np.abs(found - expected).max() for found in (fused, plain, column)]
    print(f"x of {rows} by 5: largest error {errors[0]:.3g} fused, {errors[1]:.3g} plain, {errors[2]:.3g} as a column")
    assert errors[1] < 1e-5 and errors[2] < 1e-5
    assert errors[0] > 0.1, "the fused product is right now"
PYTHON
