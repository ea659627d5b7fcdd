#!/usr/bin/env bash
# onnx's reference evaluator resamples otherwise than ONNX Runtime and PyTorch at a border, and by scales that fit no size.
#
# Guess: GridSample and Resize of the reference evaluator are F.grid_sample and F.interpolate, as ONNX Runtime's are.
# Seen: GridSample, cubic with padding_mode "border": ONNX Runtime agrees with PyTorch to 1e-6, the reference evaluator
# differs by 0.1 to 0.4; with "zeros" and "reflection" all three agree. Resize with coordinates "align_corners" and scales
# of which scale × length is no integer (1.7 × 6, 0.6 × 5), linear or cubic: the reference evaluator differs by 0.3 from
# the two others, which agree; given the same sizes in place of the scales, all three agree.
#
# Versions: onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6, torch 2.15.0, CPU, Python 3.11. Seen on 2026-11-29.
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6 torch==2.15.0
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime as ort
import torch
import torch.nn.functional as F
from onnx import TensorProto, checker, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

random = np.random.default_rng(0)
image = random.standard_normal((2, 4, 6, 5)).astype(np.float32)
grid = (1.5 * random.standard_normal((2, 3, 3, 2))).astype(np.float32)


def computed(node, feeds, stored=()):
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in feeds]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)
    graph = helper.make_graph([node], "g", inputs, [output], list(stored))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0], ReferenceEvaluator(model).run(None, feeds)[0]


def apart(a, b):
    assert a.shape == b.shape
    return float(np.abs(a - b).max())


for align in (0, 1):
    for padding in ("zeros", "border", "reflection"):
        node = helper.make_node(
            "GridSample", ["x", "grid"], ["y"], mode="cubic", padding_mode=padding, align_corners=align
        )
        runtime, reference = computed(node, {"x": image, "grid": grid})
        torchs = F.grid_sample(torch.tensor(image), torch.tensor(grid), "bicubic", padding, bool(align)).numpy()
        print(f"GridSample cubic {padding} align_corners={align}: from PyTorch: ONNX Runtime {apart(runtime, torchs):.1e}, "
              f"reference {apart(reference, torchs):.1e}")
        assert apart(runtime, torchs) < 1e-5
        assert (apart(reference, torchs) > 1e-2) == (padding == "border")

for mode, name in (("linear", "bilinear"), ("cubic", "bicubic")):
    options = {"mode": mode, "coordinate_transformation_mode": "align_corners"}
    scales = numpy_helper.from_array(np.array([1, 1, 1.7, 0.6], np.float32), "scales")
    sizes = numpy_helper.from_array(np.array([2, 4, 10, 3]), "sizes")
    torchs = F.interpolate(torch.tensor(image), scale_factor=(1.7, 0.6), mode=name, align_corners=True).numpy()
    for stored, inputs in ((scales, ["x", "", "scales"]), (sizes, ["x", "", "", "sizes"])):
        runtime, reference = computed(helper.make_node("Resize", inputs, ["y"], **options), {"x": image}, [stored])
        print(f"Resize {mode} align_corners by {stored.name}: from PyTorch: ONNX Runtime {apart(runtime, torchs):.1e}, "
              f"reference {apart(reference, torchs):.1e}")
        assert apart(runtime, torchs) < 1e-5
        assert (apart(reference, torchs) > 1e-2) == (stored is scales)
PYTHON
