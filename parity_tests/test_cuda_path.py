"""The way to a GPU up to the first run, driven on the stand-in: placement, refusals, devices, streams, broken machines.

Each process is started once and prints what it found; the tests read that. What is claimed is where nodes would run and
what is said, nothing that a GPU would have to compute.
"""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import export
from export.devices import cuda_kernels
from export.errors import ArgumentError
from export.runtime import cuda_start, sessions
from parity_tests import cuda_standin

needs_standin = pytest.mark.skipif(
    bool(cuda_standin.why_not()), reason=f"the stand-in for CUDA cannot be built: {cuda_standin.why_not()}"
)

SCENE = """
import json, tempfile, warnings
import torch.nn.functional as F
from torch.func import grad
from export.errors import ExportError
from export.runtime.placement import CUDA
folder = tempfile.mkdtemp()
found = {}
def to(name, fn, *args, **options):
    return export.to_onnx(fn, args, f"{folder}/{name}.onnx", **options).path
def tell(name, call):
    try:
        found[name] = call()
    except ExportError as error:
        found[name] = [type(error).__name__, str(error), getattr(error, "op", ""), getattr(error, "dtype", "")]
def options(session):
    return session.get_provider_options()[CUDA]
def placed(path, device="cuda"):
    return sorted(set(export.load(path, device=device).placement.values()))
"""

FILES = (
    SCENE
    + """
image, short, wide = torch.rand(1, 1, 8, 8), torch.arange(12).short(), torch.rand(2, 3)
tell("pooled", lambda: placed(to("pooled", grad(lambda x: F.avg_pool2d(x, 3, 2, 1).square().sum()), image)))
tell("rounded", lambda: placed(
    to("rounded", grad(lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True).cos().sum()), image)))
for device in ("cpu", "cuda"):
    tell(f"int16 {device}", lambda: placed(to("max", lambda x: torch.maximum(x, x.flip(0)), short), device))
tell("tan", lambda: placed(to("tan", torch.tan, wide)))
tell("whole mod", lambda: placed(to("mod", lambda x: torch.remainder(x, 3), short)))
tell("sizes", lambda: sorted(set(export.load(to(
    "sizes", lambda x: x.reshape(-1) / x.shape[0], wide, dynamic=({0: "n"},)), device="cuda").placement.values())))
tell("added by ONNX Runtime", lambda: len(export.load(to(
    "up", grad(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear").cos().sum()), torch.rand(2, 3, 4, 4),
    dynamic=({0: "n"},)), device="cuda").placement))
print(json.dumps(found))
"""
)

DEVICES = (
    SCENE
    + """
path = to("f", lambda x: torch.relu(x @ x), torch.ones(3, 3))
for device in ("cuda", "cuda:0", "cuda:1", "cuda:2", "auto"):
    def loaded():
        f = export.load(path, device=device)
        return [f.device, options(f._session)["device_id"], torch.cuda.current_device()]
    tell(device, loaded)
tell("limit", lambda: options(export.load(path, device="cuda:1", gpu_mem_limit=2**30)._session))
for device in ("cuda:0", "cuda:1"):
    for graph in (False, True):
        fast = export.jit(lambda x: x @ x, device=device, cuda_graph=graph)
        x = torch.empty(3, 3, device=device)
        def called():
            fast(x)
        tell("run", called)
        (program,) = fast._programs.values()
        given = options(program.session)
        found[f"jit {device} {graph}"] = [
            fast.device, given["device_id"], given["user_compute_stream"] == str(program._stream.cuda_stream),
            given["enable_cuda_graph"], program._stream.device.index, torch.cuda.current_device()]
        other = "cuda:0" if device == "cuda:1" else "cuda:1"
        tell(f"elsewhere {device}", lambda: fast(torch.empty(3, 3, device=other)))
print(json.dumps(found))
"""
)

BROKEN = (
    SCENE
    + """
from export.runtime import doctor
tell("load", lambda: placed(to("f", torch.relu, torch.ones(3))))
seen = doctor.diagnose()
found["doctor"] = {one.name: [one.loads, one.problem, one.fix] for one in seen.providers}[CUDA]
found["auto"], found["builds"], found["torch"] = seen.auto, seen.builds, seen.torch_cuda
print(json.dumps(found))
"""
)


@functools.cache
def scene(code: str, devices: int = 1, fault: str = "") -> dict[str, Any]:
    """What a process on the stand-in found."""
    done = cuda_standin.python(code, devices=devices, more={"CUDA_STANDIN_FAULT": fault})
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@needs_standin
@pytest.mark.parametrize("name", ["pooled", "rounded"])
def test_the_derivative_of_an_average_has_equal_pads(name: str) -> None:
    assert scene(FILES)[name] == [sessions.CUDA]


@needs_standin
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_operator_without_a_kernel_anywhere_is_the_same_error_on_either_device(device: str) -> None:
    kind, text, op, dtype = scene(FILES)[f"int16 {device}"]
    assert (kind, op, dtype) == ("UnsupportedOpError", "Max", "int16")
    assert "has no Max for int16" in text


@needs_standin
def test_a_node_that_computes_on_data_may_not_run_on_the_cpu() -> None:
    kind, text, *_ = scene(FILES)["tan"]
    assert kind == "ProviderError"
    assert "tan.Tan (Tan, float32): it has no Tan in any dtype" in text
    kind, text, *_ = scene(FILES)["whole mod"]
    assert kind == "ProviderError", "Mod has a name that sizes have too"
    assert "Mod, int16" in text


@needs_standin
def test_arithmetic_of_sizes_may_also_what_onnx_runtime_adds_to_it() -> None:
    assert sessions.CUDA in scene(FILES)["sizes"]
    assert isinstance(scene(FILES)["added by ONNX Runtime"], int)


@needs_standin
def test_the_right_gpu_is_asked_for_and_pytorchs_stays_as_it_was() -> None:
    found = scene(DEVICES, 2)
    assert found["cuda"] == found["cuda:0"] == found["auto"] == ["cuda", "0", 0]
    assert found["cuda:1"] == ["cuda:1", "1", 0], "ONNX Runtime makes its GPU the thread's current one"
    kind, text, *_ = found["cuda:2"]
    assert kind == "ProviderError"
    assert "finds 2 GPUs" in text


@needs_standin
def test_memory_is_limited() -> None:
    given = scene(DEVICES, 2)["limit"]
    assert given["gpu_mem_limit"] == str(2**30)
    assert given["arena_extend_strategy"] == "kSameAsRequested"


@needs_standin
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("index", [0, 1])
def test_a_compiled_function_runs_on_a_stream_of_its_own_on_its_gpu(index: int, graph: bool) -> None:
    found = scene(DEVICES, 2)
    name = "cuda" if index == 0 else "cuda:1"
    assert found[f"jit cuda:{index} {graph}"] == [name, str(index), True, str(int(graph)), index, 0]
    kind, text, *_ = found[f"elsewhere cuda:{index}"]
    assert kind == "ArgumentError"
    assert f"jit(…, device='cuda:{1 - index}')" in text


BROKEN_MACHINES = {
    "no GPU": (0, "", "finds no GPU", "nvidia-smi"),
    "an old driver": (1, "driver", "CUDA error 35", "update the driver"),
    "cuDNN that does not start": (1, "cudnn", "CUDNN error 1001", "onnxruntime-gpu[cuda,cudnn]"),
    "cuBLAS that does not start": (1, "cublas", "CUBLAS error 1", "nvidia-smi"),
}


@needs_standin
@pytest.mark.parametrize("name", BROKEN_MACHINES)
def test_broken_installations_are_told_apart_with_their_fixes(name: str) -> None:
    devices, fault, reason, fix = BROKEN_MACHINES[name]
    found = scene(BROKEN, devices, fault)
    kind, text, *_ = found["load"]
    loads, problem, command = found["doctor"]
    assert kind == "ProviderError"
    assert not loads
    assert found["auto"].startswith("cpu (no CUDA: "), "auto takes what runs"
    for said in (text, f"{problem}; {command}"):
        assert reason in said
        assert fix in said
        assert "onnxruntime_src" not in said, "a page of C++ is no reason"


COMMANDS = (
    SCENE
    + """
from typer.testing import CliRunner
from export.app import command_line
for line in ("doctor --json", "verify linear --device cuda", "verify linear --device cuda:1",
             "verify linear --device cuda:7", "verify linear --device gpu"):
    done = CliRunner().invoke(command_line.app, line.split())
    found[line] = [done.exit_code, done.output, type(done.exception).__name__]
print(json.dumps(found))
"""
)


@needs_standin
@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("doctor --json", 0, "computes nothing"),
        ("verify linear --device cuda", 1, "which places nodes and computes nothing"),
        ("verify linear --device cuda:1", 1, "on cuda:1"),
        ("verify linear --device cuda:7", 2, "finds 2 GPUs"),
        ("verify linear --device gpu", 2, "device must be one of auto, cpu, cuda, got 'gpu'"),
    ],
)
def test_the_command_line_goes_as_far_as_the_first_run(line: str, status: int, said: str) -> None:
    code, output, kind = scene(COMMANDS, 2)[line]
    assert (code, kind in ("NoneType", "SystemExit")) == (status, True)
    assert said in output
    assert "pass" not in output.lower().split()


@needs_standin
def test_a_cudnn_that_pytorch_was_not_built_for_is_said_with_its_fix() -> None:
    mismatch = scene(BROKEN, 1, "old cudnn")["builds"]["mismatch"]
    if mismatch is None:
        pytest.skip("this PyTorch has no CUDA, and asks for no cuDNN")
    assert "finds 9.1.0" in mismatch
    assert "pip install --force-reinstall nvidia-cudnn-cu" in mismatch


def test_what_onnx_runtime_only_logs_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a driver the provider's library does not load, which ONNX Runtime says on stderr alone."""
    if sessions.CUDA not in sessions.onnxruntime.get_available_providers() or sessions.cuda_problem() is None:
        pytest.skip("ONNX Runtime starts CUDA here, or has none")
    monkeypatch.setattr(sessions, "cuda_problem", lambda: None)
    path = export.to_onnx(torch.relu, (torch.ones(3),), tmp_path / "f.onnx").path
    with pytest.raises(export.errors.ProviderError) as caught:
        export.load(path, device="cuda")
    assert ".so" in str(caught.value), "the library that is missing"
    assert "no reason" not in str(caught.value)


def test_a_failure_of_cuda_is_read_from_a_page_of_c() -> None:
    text = (
        "/src/cuda_call.cc:154 std::conditional_t<…> CudaCall(…) [with ERRTYPE = cudnnStatus_t] CUDNN failure 1001: "
        "CUDNN_STATUS_NOT_INITIALIZED ; GPU=0 ; hostname=h ; file=f.cc ; line=250 ; expr=cudnnCreate(&cudnn_handle_); "
    )
    said = cuda_start.explained(text) or ""
    assert said.startswith("CUDNN error 1001 in cudnnCreate: CUDNN_STATUS_NOT_INITIALIZED: cuDNN does not start")
    assert cuda_start.explained("another error") is None


@pytest.mark.parametrize("limit", [0, -1, 1.5, "4 GiB"])
def test_a_limit_that_is_no_number_of_bytes_is_refused(limit: Any) -> None:
    with pytest.raises(ArgumentError, match="gpu_mem_limit must be a number of bytes"):
        sessions.choose("cpu", gpu_mem_limit=limit)


@needs_standin
def test_the_table_of_kernels_is_that_of_the_installed_onnx_runtime() -> None:
    from parity_tests import cuda_kernels as probe  # needs gcc

    found = probe.on_the_stand_in()
    if found["onnxruntime"] != cuda_kernels.VERSION:
        pytest.skip(f"the table is of ONNX Runtime {cuda_kernels.VERSION}, installed is {found['onnxruntime']}")
    assert found["kernels"] == cuda_kernels._KERNELS, "run python -m parity_tests.cuda_kernels"
