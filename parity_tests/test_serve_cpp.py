"""The C++ program of the page on serving compiles against ONNX Runtime's headers and gives what Python gives."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import export
import pure
from parity_tests.markdown_pages import DOCS, code_blocks

FOLDERS = (
    os.environ.get("ONNXRUNTIME_INCLUDE", ""),
    "/usr/include/onnxruntime",
    "/usr/include/onnxruntime/core/session",
    "/usr/local/include/onnxruntime",
)
"""Where headers may lie; PyPI, npm and Debian 12 have none."""
INCLUDE = next((folder for folder in FOLDERS if folder and (Path(folder) / "onnxruntime_cxx_api.h").is_file()), None)
LIBRARY = next((Path(onnxruntime.__path__[0]) / "capi").glob("libonnxruntime.so.*"), None)


@pytest.mark.skipif(INCLUDE is None, reason="no onnxruntime_cxx_api.h; set ONNXRUNTIME_INCLUDE to its folder")
@pytest.mark.skipif(LIBRARY is None or shutil.which("g++") is None, reason="no g++ or libonnxruntime.so")
@pytest.mark.slow
def test_the_program_of_the_page_gives_what_python_gives(tmp_path: Path) -> None:
    (program,) = (
        block.text
        for block in code_blocks((DOCS / "how-to" / "serve.md").read_text(encoding="utf-8"))
        if block.language == "cpp"
    )
    (tmp_path / "serve.cpp").write_text(program)
    (tmp_path / "libonnxruntime.so.1").symlink_to(str(LIBRARY))  # the name that programs look for
    words = ["g++", "-std=c++17", "-I", str(INCLUDE), "serve.cpp", "libonnxruntime.so.1", f"-Wl,-rpath,{tmp_path}"]
    words += ["-o", "serve"]
    subprocess.run(words, cwd=tmp_path, check=True, timeout=300)
    net = pure.nets.residual_mlp(features=16, hidden_features=32, depth=2)
    params, _ = net.init(torch.Generator().manual_seed(0))
    export.to_onnx(net, (params, torch.ones(2, 16)), tmp_path / "net.onnx", bake=(0,), dynamic=(None, {0: "batch"}))
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        x = np.random.default_rng(batch).standard_normal((batch, 16), np.float32)
        command = ["./serve", "net.onnx", str(batch), "16"]
        done = subprocess.run(command, cwd=tmp_path, input=x.tobytes(), capture_output=True, check=True, timeout=60)
        served = np.frombuffer(done.stdout, np.float32).reshape(batch, 16)
        np.testing.assert_array_equal(served, session.run(["out"], {"x": x})[0])
        np.testing.assert_allclose(served, net(params, torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6)
