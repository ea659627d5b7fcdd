"""PyTorch's windows of cosines export by a rule of this package: ONNX's own Hamming window has other numbers."""

from pathlib import Path

import onnx
import pytest
import torch

import export

LENGTHS = (1, 2, 7, 8)


def every_window(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each kind by each of its forms, as long as x."""
    length = x.shape[0]
    made = {
        "hann": torch.hann_window(length),
        "hann_symmetric": torch.hann_window(length, False),
        "hamming": torch.hamming_window(length),
        "hamming_symmetric": torch.hamming_window(length, False),
        "hamming_alpha": torch.hamming_window(length, True, 0.6),
        "hamming_both": torch.hamming_window(length, False, 0.6, 0.3),
        "blackman": torch.blackman_window(length),
        "blackman_symmetric": torch.blackman_window(length, False),
        "double": torch.hann_window(length, dtype=torch.float64).to(x.dtype),
    }
    return {name: x * window for name, window in made.items()}


@pytest.mark.parametrize("length", LENGTHS)
def test_every_window_is_right(length: int) -> None:
    verdict = export.verify(every_window, (torch.linspace(0.5, 2, length),), device="cpu")
    assert verdict.passed, verdict.table()


def test_no_window_of_onnx_is_used(tmp_path: Path) -> None:
    export.to_onnx(every_window, (torch.ones(6),), tmp_path / "f.onnx")
    ops = {node.op_type for node in onnx.load(tmp_path / "f.onnx").graph.node}
    assert "Cos" in ops
    assert not {op for op in ops if op.endswith("Window")}


def test_the_dtype_asked_for_is_kept() -> None:
    verdict = export.verify(lambda x: x + torch.hamming_window(5, dtype=torch.float64), (torch.ones(5).double(),))
    assert verdict.passed, verdict.table()
