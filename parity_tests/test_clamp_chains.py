"""Clamps of clamps: a chain must not be merged into one clamp with other values, by us or by ONNX Runtime.

`torch.onnx.export` does merge them; a verdict on its file says so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import export
from export.errors import LoadError
from parity_tests import foreign_files

X = torch.linspace(-5, 5, 21)
LOW, HIGH, UP, FAR = (torch.tensor(value) for value in (0.0, 1.0, 2.0, 3.0))

CHAINS: dict[str, Callable[[Tensor], Tensor]] = {
    "intervals that do not meet, upwards": lambda x: x.clamp(0, 1).clamp(2, 3),
    "intervals that do not meet, downwards": lambda x: x.clamp(2, 3).clamp(0, 1),
    "bounds as tensors": lambda x: torch.clamp(torch.clamp(x, LOW, HIGH), UP, FAR),
    "one bound each": lambda x: x.clamp(max=1).clamp(min=2),
    "an empty interval": lambda x: x.clamp(2, 1),
    "relu of a clamp": lambda x: x.clamp(-3, -1).relu(),
    "relu6 of a clamp": lambda x: functional.relu6(x.clamp(-3, -1)),
    "clamp of a relu": lambda x: x.relu().clamp(-3, -1),
    "hardtanh of hardtanh": lambda x: functional.hardtanh(functional.hardtanh(x, 0, 1), 2, 3),
    "two clamps of one value": lambda x: x.clamp(0, 1) + x.clamp(-1, 2),
    "two clamps of one clamp": lambda x: (lambda y: y.clamp(2, 3) + y.clamp(0, 3))(x.clamp(0, 1)),
    "maximum of minimum": lambda x: torch.maximum(torch.minimum(x, HIGH), UP),
    "minimum of maximum": lambda x: torch.minimum(torch.maximum(x, UP), HIGH),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_keeps_its_values_in_a_file_and_its_gradient(name: str, tmp_path: Path) -> None:
    chain = CHAINS[name]
    for fn in (chain, torch.func.grad(lambda x: (chain(x) * x).sum())):
        export.to_onnx(fn, (X,), tmp_path / "chain.onnx", dynamic=({0: "n"},))
        loaded = export.load(tmp_path / "chain.onnx", device="cpu")
        for x in (X, X[4:11]):
            assert torch.equal(loaded(x), fn(x))


class Chain(nn.Module):
    """A chain as the module that `torch.onnx.export` takes."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return CHAINS[self.name](x)


def test_a_verdict_fails_a_file_whose_clamps_were_merged(tmp_path: Path) -> None:
    path = tmp_path / "merged.onnx"
    module = Chain("relu of a clamp")
    foreign_files.write(module, {"x": X}, path)
    verdict = export.verify(module, (X,), path, device="cpu")
    assert not verdict, "onnxscript no longer merges a clamp with a relu: see findings"


def test_a_file_that_names_what_nothing_produces_is_a_load_error(tmp_path: Path) -> None:
    path = tmp_path / "invalid.onnx"
    module = Chain("two clamps of one value")
    foreign_files.write(module, {"x": X}, path)
    with pytest.raises(LoadError, match="x_min"):
        export.verify(module, (X,), path, device="cpu")
