"""Pools whose last window reaches beyond the padding, and pools behind a Pad: values and gradients, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

import export

GENERATOR = torch.Generator().manual_seed(0)


def image(*shape: int) -> Tensor:
    """Return random values of a shape."""
    return torch.randn(*shape, generator=GENERATOR)


def agrees(f: Callable[[Tensor], Tensor], x: Tensor, path: Path, **options: Any) -> None:
    """Compare a file with eager float64."""
    export.to_onnx(f, (x,), path / "f.onnx", **options)
    found = export.load(path / "f.onnx", device="cpu")(x)
    torch.testing.assert_close(found.double(), f(x.double()), rtol=1e-5, atol=1e-6)


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda x: F.max_pool2d(x, 3, 3, 1, ceil_mode=True),
    "max, dilated": lambda x: F.max_pool2d(F.pad(x, (2, 2, 2, 2)), 2, 3, 1, dilation=2, ceil_mode=True),
    "average": lambda x: F.avg_pool2d(x, 3, 3, 1, ceil_mode=True),
    "average, overlapping": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average, oblong": lambda x: F.avg_pool2d(x, (3, 2), (2, 3), 1, ceil_mode=True),
    "average, unpadded": lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
    "average without its padding": lambda x: F.avg_pool2d(x, 3, 3, 1, ceil_mode=True, count_include_pad=False),
    "average by a divisor": lambda x: F.avg_pool2d(x, 3, 3, 1, ceil_mode=True, divisor_override=5),
}


@pytest.mark.parametrize("size", [2, 5, 7, 8])
@pytest.mark.parametrize("name", POOLS)
def test_rounding_up_is_right_at_fixed_sizes(name: str, size: int, tmp_path: Path) -> None:
    x = image(2, 3, size, size)
    agrees(POOLS[name], x, tmp_path)
    agrees(grad(lambda x: POOLS[name](x).square().sum()), x, tmp_path)


@pytest.mark.parametrize("opset", [18, 22])
@pytest.mark.parametrize("name", ["max", "average"])
def test_rounding_up_is_right_in_every_opset(name: str, opset: int, tmp_path: Path) -> None:
    agrees(POOLS[name], image(1, 3, 5, 5), tmp_path, opset=opset)


PADDED: dict[str, Callable[[Tensor], Tensor]] = {
    "average": lambda x: F.avg_pool2d(F.pad(x, (1, 2, 1, 2)), 3, 2),
    "average, pads wider than the window": lambda x: F.avg_pool2d(F.pad(x, (3, 3, 3, 3)), 2, 2),
    "average without its padding": lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2, 1, count_include_pad=False),
    "average of ones around": lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1), value=1.0), 2, 2),
    "power mean": lambda x: F.lp_pool2d(F.pad(x, (1, 2, 1, 2)), 2, 3, 2),
    "average of a sequence": lambda x: F.avg_pool1d(F.pad(x[:, 0], (4, 4)), 3, 2),
    "average of a volume": lambda x: F.avg_pool3d(F.pad(x, (4, 4, 1, 1)), 2, 2),
    "max": lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2),
    "convolution": lambda x: F.conv2d(F.pad(x, (1, 2, 0, 3)), torch.ones(2, 4, 3, 3, dtype=x.dtype)),
}


@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("name", PADDED)
def test_a_pad_before_a_pool_keeps_its_values(name: str, fixed: bool, tmp_path: Path) -> None:
    dynamic = None if fixed else ({0: "batch"},)
    x = image(2, 4, 9, 9) - 3
    agrees(PADDED[name], x, tmp_path, dynamic=dynamic)
    agrees(grad(lambda x: PADDED[name](x).square().sum()), x, tmp_path, dynamic=dynamic)
