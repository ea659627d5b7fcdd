#!/usr/bin/env bash
# ONNX Runtime's float32 Sigmoid is 0 from about -16.3 on, and falls where it should rise just above.
#
# Guess: the sigmoid of a float32 is right to a few units in the last place while the result is a normal number, that
# is down to about -87. Seen: the CPU kernel keeps an absolute error of about 1e-7, so that the relative error passes
# 1 near -15; between -17 and -14 the values are not monotone, and some are exactly 0. A logarithm or a quotient
# behind it is then minus infinity or without a correct digit. The float64 kernel is monotone there, with half of its
# digits lost.
#
# Versions: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-28:
#   float32: 0 at -16.325 and below in places, 393 of 2000 steps fall, largest relative error 3.93
#   float64: 0 steps fall, largest relative error 5.24e-08
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

x = np.linspace(-20, -14, 2001)
found = {}
for name, kind, dtype in (("float32", TensorProto.FLOAT, np.float32), ("float64", TensorProto.DOUBLE, np.float64)):
    node = helper.make_node("Sigmoid", ["x"], ["y"])
    values = [helper.make_tensor_value_info(n, kind, ["n"]) for n in "xy"]
    graph = helper.make_graph([node], "sigmoid", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = x.astype(dtype)
    y = session.run(None, {"x": given})[0]
    exact = 1 / (1 + np.exp(-given.astype(np.float64)))
    falling, error = int((np.diff(y) < 0).sum()), np.abs(y / exact - 1).max()
    found[name] = (falling, error, bool((y == 0).any()))
    zeros = f"0 at {given[y == 0].max():.3f} and below in places, " if (y == 0).any() else ""
    print(f"{name}: {zeros}{falling} {'of 2000 ' if zeros else ''}steps fall, largest relative error {error:.3g}")
falling, error, zero = found["float32"]
assert zero and falling > 100 and error > 1, "float32 is accurate now"
falling, error, zero = found["float64"]
assert not zero and falling == 0 and 1e-9 < error < 1e-6, "float64 is accurate now, or worse"
PYTHON
