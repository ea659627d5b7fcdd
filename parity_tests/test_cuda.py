"""What holds on the CPU holds on a GPU: placement, verdicts, half types, branches, transforms, calls without copies.

The bodies are plain functions of the device (`parity_tests.cuda_checks`), so those for the GPU run here on the CPU too.
"""

from pathlib import Path

import pytest

from parity_tests.cuda_checks import CHECKS

SLOW = {"placement", "predicted placement", "compiled", "verdict: Hessian product", "ResNet-18"}
CASES = [
    *(pytest.param(name, "cpu", marks=[pytest.mark.slow] if name in SLOW else [], id=f"{name}-cpu") for name in CHECKS),
    *(pytest.param(name, "cuda", marks=pytest.mark.cuda, id=f"{name}-cuda") for name in CHECKS),
]


@pytest.mark.parametrize(("name", "device"), CASES)
def test_the_device_does_what_is_claimed(name: str, device: str, tmp_path: Path) -> None:
    assert CHECKS[name](device, tmp_path)
