#!/usr/bin/env bash
# ONNX Runtime's ReduceSum over the first axis adds the rows in order: 100,000 rows lose two digits more than elsewhere.
#
# Guess: a float32 sum of 100,000 numbers is about as exact in ONNX Runtime as in PyTorch, which adds in blocks: a few
# roundings of the sum of magnitudes. Seen: over axis 0 the rows are added one after the other, and the error of a column
# is more than ten times PyTorch's; bias gradients and means over large batches are such sums.
#
# Versions: onnx 1.23.2, onnxruntime 1.31.1, torch 2.15.0, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-29:
#   100,000 rows: ONNX Runtime 230 roundings off, PyTorch 2.75
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnx==1.23.2 onnxruntime==1.31.1 torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

rows = np.random.default_rng(0).random((100_000, 64), dtype=np.float32)
x = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(rows.shape))
y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [64])
axes = numpy_helper.from_array(np.array([0]), "axes")
graph = helper.make_graph([helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)], "sum", [x], [y], [axes])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
onnx.checker.check_model(model, full_check=True)
session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
exact = rows.astype(np.float64).sum(0)


def roundings(found):
    """Return the largest error in units of half a float32 spacing of the sum."""
    return float((np.abs(found - exact) / exact).max() * 2**24)


theirs = roundings(session.run(None, {"x": rows})[0].astype(np.float64))
torchs = roundings(torch.from_numpy(rows).sum(0).numpy().astype(np.float64))
print(f"100,000 rows: ONNX Runtime {theirs:.3g} roundings off, PyTorch {torchs:.3g}")
assert theirs > 10 * torchs, "ONNX Runtime no longer adds in order"
PYTHON
