"""Operators of other libraries whose values and derivatives are those of PyTorch's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import export
from parity_tests.libraries import transformers


@pytest.mark.parametrize("by", ["forward", "gradient"])
def test_grouped_products_of_transformers(by: str, tmp_path: Path) -> None:
    assert transformers.AriaTextConfig  # whose module registers the operator
    __import__("transformers.integrations.moe")
    operator = torch.ops.transformers.grouped_mm_fallback
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(7, 8, generator=generator), torch.randn(3, 8, 4, generator=generator)
    ends = torch.tensor([2, 2, 7], dtype=torch.int32)

    def value(weight: Tensor, x: Tensor, ends: Tensor) -> Tensor:
        return operator(x, weight, ends)

    def loss(weight: Tensor, x: Tensor) -> Tensor:
        first, *_, last = value(weight, x, ends).split([2, 5])
        return first.sin().sum() + last.cos().sum()

    fn: Any = value if by == "forward" else torch.func.grad(loss, (0, 1))
    args: Any = (weight, x, ends) if by == "forward" else (weight, x)
    export.to_onnx(fn, args, tmp_path / "model.onnx")
    found = export.load(tmp_path / "model.onnx", device="cpu")(*args)
    y = torch.cat([x[:2] @ weight[0], x[2:] @ weight[2]])
    if by == "forward":
        torch.testing.assert_close(found, y)
        return
    cotangent = torch.cat([y[:2].cos(), -y[2:].sin()])
    torch.testing.assert_close(found[1], torch.cat([cotangent[:2] @ weight[0].T, cotangent[2:] @ weight[2].T]))
    expected = torch.stack([x[:2].T @ cotangent[:2], torch.zeros(8, 4), x[2:].T @ cotangent[2:]])
    torch.testing.assert_close(found[0], expected)
