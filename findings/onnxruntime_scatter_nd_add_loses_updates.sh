#!/usr/bin/env bash
# ONNX Runtime's ScatterND with reduction="add" loses additions when several updates go to one index.
#
# Guess: reduction="add" adds every update, however many threads share the work, as the operator's text allows repeated
# indices for it. Seen: on a CPU with two or more threads some runs come out too small by whole updates, and which ones
# differs from run to run; with one thread, and for ScatterElements with the same sums, all runs are right.
#
# Versions: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6, CPU with 2 cores, Python 3.11. Seen on 2026-11-29:
#   ScatterND: 97 of 100 runs wrong with 2 threads, 0 with 1 thread; ScatterElements with 2 threads: 0
# Exits 0 while this holds, 1 when the behaviour has changed (or where there is one core only).
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

UPDATES, ROWS, RUNS = 100_000, 16, 100
data, updates = np.zeros((ROWS, 16), np.float32), np.ones((UPDATES, 16), np.float32)
index = np.random.default_rng(0).integers(0, ROWS, UPDATES)
expected = np.repeat(np.bincount(index).astype(np.float32)[:, None], 16, 1)  # whole numbers: exact in any order


def wrong_runs(op, indices, threads, attributes):
    shape = list(indices.shape)
    inputs = [
        helper.make_tensor_value_info("data", TensorProto.FLOAT, [ROWS, 16]),
        helper.make_tensor_value_info("indices", TensorProto.INT64, shape),
        helper.make_tensor_value_info("updates", TensorProto.FLOAT, [UPDATES, 16]),
    ]
    node = helper.make_node(op, ["data", "indices", "updates"], ["y"], reduction="add", **attributes)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [ROWS, 16])
    graph = helper.make_graph([node], "scatter", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"data": data, "indices": indices, "updates": updates}
    return sum(not np.array_equal(session.run(None, feed)[0], expected) for _ in range(RUNS))


found = {
    "ScatterND, 2 threads": wrong_runs("ScatterND", index[:, None], 2, {}),
    "ScatterND, 1 thread": wrong_runs("ScatterND", index[:, None], 1, {}),
    "ScatterElements, 2 threads": wrong_runs("ScatterElements", np.repeat(index[:, None], 16, 1), 2, {"axis": 0}),
}
for name, count in found.items():
    print(f"{name}: {count} of {RUNS} runs wrong")
assert found["ScatterND, 1 thread"] == found["ScatterElements, 2 threads"] == 0
assert found["ScatterND, 2 threads"] > 0, "no addition is lost any more"
PYTHON
