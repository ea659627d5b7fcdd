"""What ONNX Runtime has to say is in the typed errors; none of it reaches stdout, where results go."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper


def refusing_files(folder: Path) -> None:
    """Write files that ONNX Runtime talks about: an unknown operator, a broken attribute, a name that is no text."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("inp", "y")]

    def save(name: str, *nodes: onnx.NodeProto) -> bytes:
        graph = helper.make_graph(nodes, "g", value[:1], value[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, folder / f"{name}.onnx")
        return model.SerializeToString()

    save("unknown", helper.make_node("Unknown", ["inp"], ["y"]))
    save("attribute", helper.make_node("Softmax", ["inp"], ["y"], axis=9))
    save("running", helper.make_node("Reshape", ["inp", "s"], ["y"]), helper.make_node("Shape", ["y"], ["s"]))
    sound = save("sound", helper.make_node("Relu", ["inp"], ["y"]))
    (folder / "name.onnx").write_bytes(sound.replace(b"inp", b"in\xe7"))
    graph = helper.make_graph(
        [helper.make_node("Gather", ["inp", "i"], ["y"])],
        "g",
        [value[0], helper.make_tensor_value_info("i", TensorProto.INT64, [2])],
        value[1:],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "index.onnx"
    )


CALLS = """
import json, sys
from pathlib import Path
import numpy as np
import export
from export.errors import PureExportError

said = {}
for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    try:
        f = export.load(path)
        if path.stem == "index":
            f(np.ones(2, np.float32), np.array([0, 9]))
        else:
            f(np.ones(2, np.float32))
        f.describe()
        said[path.stem] = ""
    except PureExportError as error:
        said[path.stem] = f"{type(error).__name__}: {error}"
    try:
        export.weights(path)
    except PureExportError:
        pass
print(json.dumps(said))
"""


def test_nothing_of_onnxruntime_reaches_stdout(tmp_path: Path) -> None:
    refusing_files(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", CALLS, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    said = json.loads(ran.stdout)  # the one document is all that there is
    assert "onnxruntime" not in ran.stderr
    assert "EP Error" not in ran.stderr
    reasons = {
        "unknown": "LoadError.*Unknown",
        "attribute": "LoadError.*axis",
        "running": "LoadError.*",
        "name": "LoadError.*utf-8",
        "index": "LoadError.*indices element out of data bounds",
    }
    assert said.pop("sound") == ""
    assert set(said) == set(reasons)
    for name, reason in reasons.items():
        assert re.search(reason, said[name], re.DOTALL), said[name]


@pytest.mark.parametrize(
    "command", [["doctor", "--json"], ["weights", "{folder}/name.onnx", "--json"], ["verify", "residual", "--json"]]
)
def test_the_command_line_prints_one_document(command: list[str], tmp_path: Path) -> None:
    refusing_files(tmp_path)
    given = [part.format(folder=tmp_path) for part in command]
    program = [sys.executable, "-m", "export.app.command_line"]
    ran = subprocess.run([*program, *given], capture_output=True, text=True, check=False, timeout=300)
    json.loads(ran.stdout)
