"""Modules that take other code where something compiles them: the file is right where that code fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import export
from export.errors import TracingError
from pure.interop import from_module

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Masked(nn.Module):
    """Makes no mask for a compiler, and then needs one: transformers' LongT5 does so."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        mask = None if torch.compiler.is_compiling() else torch.full((x.shape[0], 1), 2.0)
        return self.linear(x) * mask[:, :1]  # type: ignore[index]


class ReadMask(Masked):
    """Reads values in the code that is not for a compiler."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if torch.compiler.is_compiling() or x.sum() < 1e9 else -x)


def test_the_eager_code_is_recorded_where_that_for_compilers_fails(tmp_path: Path) -> None:
    block, params, state = from_module(Masked())
    file = export.to_onnx(block, (params, X, state), tmp_path / "f.onnx", dynamic=(None, {0: "batch"}, None))
    torch.testing.assert_close(file.load("cpu")(params, X[:3], state), block(params, X[:3], state))


def test_where_neither_can_be_recorded_the_error_is_that_of_the_code_for_compilers(tmp_path: Path) -> None:
    block, params, state = from_module(ReadMask())
    with pytest.raises(TracingError, match="'NoneType' object is not subscriptable"):
        export.to_onnx(block, (params, X, state), tmp_path / "f.onnx")
