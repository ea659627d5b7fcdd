"""Tensors on the GPU of a loaded file are not copied: PyTorch and ONNX Runtime see one memory.

On the CPU, where the same functions hand tensors over, the content is looked at; on the stand-in for CUDA the addresses
that a call binds, up to its first run.
"""

import functools
import json
from typing import Any

import pytest
import torch

from export.runtime import gpu_tensors
from parity_tests import cuda_standin

needs_standin = pytest.mark.skipif(
    bool(cuda_standin.why_not()), reason=f"the stand-in for CUDA cannot be built: {cuda_standin.why_not()}"
)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
)
@pytest.mark.parametrize("shape", [(3, 4), (), (0, 2)], ids=str)
def test_a_tensor_comes_back_as_it_went_in_one_memory(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = (torch.arange(12) % 5).to(dtype)[: torch.Size(shape).numel()].reshape(shape)
    value = gpu_tensors.shared(x, "cpu")
    back = gpu_tensors.as_torch(value, str(dtype).removeprefix("torch."))
    assert back.dtype == dtype
    assert torch.equal(back, x)
    assert back.data_ptr() == x.data_ptr()


def test_a_view_is_made_contiguous() -> None:
    x = torch.arange(12.0).reshape(3, 4).T
    assert torch.equal(gpu_tensors.as_torch(gpu_tensors.shared(x, "cpu"), "float32"), x)


@pytest.mark.parametrize(("device", "place"), [("cuda:1", "cuda"), ("cpu", "cuda"), ("cuda", "cuda:1")])
def test_elsewhere_a_tensor_has_to_be_copied(device: str, place: str) -> None:
    assert not gpu_tensors.lies_on(torch.device(device), place)
    assert gpu_tensors.shared([1.0], place) is None


def test_a_gpu_is_told_from_another() -> None:
    assert gpu_tensors.lies_on(torch.device("cuda:0"), "cuda")
    assert gpu_tensors.lies_on(torch.device("cuda:1"), "cuda:1")
    assert not gpu_tensors.lies_on(None, "cuda")


SCENE = """
import json, tempfile
import onnxruntime
from export.errors import LoadError
found, seen = {}, {}
own_input, own_output = onnxruntime.IOBinding.bind_ortvalue_input, onnxruntime.IOBinding.bind_output
def given(self, name, value):
    seen[name] = [value.data_ptr(), value.device_name()]
    own_input(self, name, value)
def taken(self, name, *place, **more):
    seen[name] = list(place)
    own_output(self, name, *place, **more)
onnxruntime.IOBinding.bind_ortvalue_input, onnxruntime.IOBinding.bind_output = given, taken
path = export.to_onnx(
    lambda x, w, m: {"y": torch.where(m, x @ w, 0.0), "m": ~m},
    (torch.ones(3, 3), torch.ones(3, 3), torch.ones(3, 3, dtype=torch.bool)), tempfile.mkdtemp() + "/f.onnx").path
def call(name, f, *args):
    seen.clear()
    try:
        f(*args)
    except LoadError as stopped:
        found[name] = [dict(seen), [arg.data_ptr() for arg in args], str(stopped)]
for device in ("cuda", "cuda:1"):
    f = export.load(path, device=device)
    x, w = (torch.empty(3, 3, device=device) for _ in range(2))
    m = torch.empty(3, 3, dtype=torch.bool, device=device)
    call(device, f, x, w, m)
    call(f"{device}, a part from the host", f, x, torch.ones(3, 3), m)
    call(f"{device}, all from the host", f, torch.ones(3, 3), torch.ones(3, 3), torch.ones(3, 3, dtype=torch.bool))
    call(f"{device}, bound", f.bind(x), w, m)
print(json.dumps(found))
"""


@functools.cache
def scene() -> dict[str, Any]:
    """What calls bound before the guard stopped them."""
    done = cuda_standin.python(SCENE, devices=2)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@needs_standin
@pytest.mark.parametrize("index", [0, 1])
def test_a_loaded_file_reads_and_writes_the_memory_of_its_gpu(index: int) -> None:
    device = f"cuda:{index}" if index else "cuda"
    bound, addresses, stopped = scene()[device]
    assert "which places nodes and computes nothing" in stopped
    assert [bound[name][0] for name in "xwm"] == addresses
    assert {bound[name][1].lower() for name in "xwm"} == {"cuda"}
    assert bound["out.y"] == bound["out.m"] == ["cuda", index], "results stay there"


@needs_standin
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_what_lies_elsewhere_is_copied_by_itself(device: str) -> None:
    bound, addresses, _ = scene()[f"{device}, a part from the host"]
    assert [bound[name][0] == address for name, address in zip("xwm", addresses, strict=True)] == [True, False, True]
    bound, addresses, _ = scene()[f"{device}, all from the host"]
    assert not {bound[name][0] for name in "xwm"} & set(addresses)
    assert bound["out.y"] == ["cpu"], "results come where the arguments were"


@needs_standin
def test_bound_arguments_stay_on_the_gpu_in_memory_of_their_own() -> None:
    bound, addresses, _ = scene()["cuda, bound"]
    assert [bound[name][0] for name in "wm"] == addresses
    assert bound["x"][1].lower() == "cuda"
    assert bound["x"][0] not in addresses
