#!/usr/bin/env bash
# onnxscript's optimiser merges two Clips, or a Clip and a Relu, into one Clip with other values.
#
# Guess: Clip to [0, 1], then to [2, 3], gives 2 everywhere, after optimisation too; a Relu of values clipped to [-3, -1] gives 0.
# Seen: the first becomes one Clip with lower bound max(0, 2) and upper bound min(1, 3), which gives 1, as an upper bound below the lower
#       one wins. The second becomes a Clip to [max(-3, 0), -1], which gives -1. torch.onnx.export runs this optimiser by default.
#
# Versions: onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.31.1, numpy 2.4.6, CPU, Python 3.11. Seen on 2026-11-30.
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper
from onnxscript import optimizer

x = np.linspace(-2, 5, 8, dtype=np.float32)


def model(*nodes, **bounds):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [bound]) for name, bound in bounds.items()]
    graph = helper.make_graph(list(nodes), "g", values[:1], values[1:], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(made, full_check=True)
    return made


def run(made):
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.unique(session.run(None, {"x": x})[0]).tolist()


def compared(name, made):
    after = optimizer.optimize(made)
    before, found = run(made), run(after)
    print(f"{name}: {before} before, {found} after, as {[node.op_type for node in after.graph.node]}")
    return before, found


clip, node = [helper.make_node("Clip", ["x", "a", "b"], ["h"])], helper.make_node
twice = model(*clip, node("Clip", ["h", "c", "d"], ["y"]), a=0.0, b=1.0, c=2.0, d=3.0)
assert compared("Clip to [0, 1], then to [2, 3]", twice) == ([2.0], [1.0])
assert compared("Clip to [-3, -1], then Relu", model(*clip, node("Relu", ["h"], ["y"]), a=-3.0, b=-1.0)) == ([0.0], [-1.0])
PYTHON
