#!/usr/bin/env bash
# onnx does not load a model whose weights file is a link, as in the cache of huggingface_hub, or has a second name.
#
# Guess: a weights file beside its model loads, whether it is a file, a symbolic link to one, or a file of two names.
# Seen: laid out as huggingface_hub's cache is (snapshots of symbolic links to blobs), onnx.load ends in a ValidationError
# "it is a symbolic link"; after a backup by `cp -al` neither the copy nor the original loads ("multiple hard links"), and
# when the backup is gone the original does again. The graph file itself may be a link.
#
# Versions: onnx 1.23.2, numpy 2.4.6, Linux, Python 3.11. Seen on 2026-11-29.
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import copy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

folder = Path(sys.argv[1])
weight = numpy_helper.from_array(np.ones(400, np.float32), "w")
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [400]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def saved(at, **data):
    at.mkdir()
    onnx.save(copy.deepcopy(model), at / "m.onnx", **data)


def said(at):
    try:
        onnx.load(at / "m.onnx")
    except onnx.checker.ValidationError as error:
        text = str(error).replace(str(folder), "…")
        print(f"{at.name}: {text}")
        return text
    print(f"{at.name}: loads")
    return "loads"


def cached(at, names):
    """Move files to `blobs` and leave links to them, as the cache does."""
    (folder / "blobs").mkdir(exist_ok=True)
    for name in names:
        blob = folder / "blobs" / f"{at.name}-{name}"
        (at / name).rename(blob)
        (at / name).symlink_to(Path("..") / "blobs" / blob.name)


beside = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
saved(folder / "plain", **beside)
assert said(folder / "plain") == "loads"
saved(folder / "one_file")
cached(folder / "one_file", ["m.onnx"])
assert said(folder / "one_file") == "loads"
saved(folder / "snapshot", **beside)
cached(folder / "snapshot", ["m.onnx", "m.data"])
assert "symbolic link" in said(folder / "snapshot")

subprocess.run(["cp", "-al", folder / "plain", folder / "backup"], check=True)
for name in ("plain", "backup"):
    assert "multiple hard links" in said(folder / name)
shutil.rmtree(folder / "backup")
assert said(folder / "plain") == "loads"
PYTHON
