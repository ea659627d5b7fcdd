"""The stand-in for CUDA starts sessions that are placed as on a GPU, and lets none of them compute anything.

Where there is no gcc, or ONNX Runtime was built without CUDA, these tests are left out, and the summary says so.
"""

import subprocess

import pytest

from parity_tests import cuda_standin
from parity_tests.cuda_standin import guard

pytestmark = pytest.mark.skipif(
    bool(cuda_standin.why_not()), reason=f"the stand-in for CUDA cannot be built: {cuda_standin.why_not()}"
)

SESSION = """
import onnxruntime, torch, export, tempfile
folder = tempfile.mkdtemp()
f = export.to_onnx(lambda x: torch.relu(x @ x), (torch.ones(3, 3),), folder + "/f.onnx").load(device="cuda")
"""


def said(code: str, **options: int) -> str:
    """What the code prints on the stand-in; it has to end well."""
    done = cuda_standin.python(code, **options)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_session_on_it_is_placed_by_the_real_provider() -> None:
    text = said(SESSION + "print(f.device, sorted(set(f.placement.values())), f._session.get_providers()[0])")
    assert text.split() == ["cuda", "['CUDAExecutionProvider']", "CUDAExecutionProvider"]


@pytest.mark.parametrize(
    "call",
    [
        "f(torch.ones(3, 3))",
        "f._session.run(None, {'x': torch.ones(3, 3).numpy()})",
        "f._session._sess.run(['out'], {}, None)",
        "export.jit(lambda x: 2 * x, device='cuda')(torch.empty(3, device='cuda'))",
    ],
)
def test_no_session_on_it_can_be_run(call: str) -> None:
    done = cuda_standin.python(f"{SESSION}\nprint('VALUES', {call})")
    assert done.returncode != 0
    assert "VALUES" not in done.stdout
    assert "a stand-in for CUDA, which places nodes and computes nothing" in done.stderr


def test_a_process_in_which_it_would_compute_ends() -> None:
    done = cuda_standin.python("import torch; print(torch.ones(3, device='cuda'))")
    assert done.returncode == cuda_standin.EXIT_COMPUTED
    assert "a stand-in computes nothing" in done.stderr
    assert not done.stdout


def test_a_session_on_the_cpu_runs_beside_it() -> None:
    code = SESSION.replace('device="cuda"', 'device="cpu"')
    assert said(code + "print(f(torch.ones(3, 3))[0].tolist())").strip() == "[3.0, 3.0, 3.0]"


def test_the_name_of_its_device_says_what_it_is() -> None:
    assert "computes nothing" in said("print(torch.cuda.get_device_name())")


@pytest.mark.parametrize("devices", [0, 1, 2])
def test_it_has_as_many_devices_as_asked_for(devices: int) -> None:
    assert said("print(torch.cuda.device_count())", devices=devices).strip() == str(devices)


def test_without_it_the_guard_refuses_to_be_installed() -> None:
    with pytest.raises(guard.StandInError, match=r"start the process by parity_tests\.cuda_standin\.python"):
        guard.install()


def test_a_process_that_takes_too_long_ends_by_itself() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        cuda_standin.python("import time; time.sleep(600)", timeout=1)
    assert said("import sys; print(len(sys.argv))").strip() == "1"
