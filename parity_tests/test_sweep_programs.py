"""The programs that sweep ONNX Runtime's rewrites and PyTorch's operator samples: a part of each."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from parity_tests import opinfo_sweep, rewrite_sweep


def test_no_rewrite_changes_a_pool_behind_a_pad(capsys: pytest.CaptureFixture[str]) -> None:
    assert rewrite_sweep.main(["padded", "rounding up"]) == 0
    assert "0 findings (0 not exported)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (np.array([1.0, 2.001], np.float32), "differs by"),
        (np.array([1.0, np.inf], np.float32), "not finite"),
        (np.array([1.0, 2.0]), "instead of"),
        (np.array([[1.0, 2.0]], np.float32), "instead of"),
        (np.array([1.0, 2.00001], np.float32), ""),
    ],
)
def test_a_difference_beyond_rounding_is_told(found: np.ndarray, said: str) -> None:
    told = rewrite_sweep.compared([np.array([1.0, 2.0], np.float32)], [found])
    assert said in told if said else not told


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.testing._internal.common_methods_invocations", None)
    with pytest.raises(SystemExit, match="pip install"):
        opinfo_sweep.operators()


@pytest.mark.skipif(importlib.util.find_spec("expecttest") is None, reason="PyTorch's samples need expecttest")
def test_samples_of_some_operators_are_right() -> None:
    found = list(opinfo_sweep.cells(("abs", "fft.rfft", "nn.functional.avg_pool2d"), 1))
    assert {cell.outcome for cell in found} <= {"right", "n/a"}, found
    assert len(found) == 6
