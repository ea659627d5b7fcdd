"""Views that infer one axis (-1) beside several dynamic sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import grad

import export

X = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(0))
BOTH, BATCH, LENGTH = {0: "batch", 1: "length"}, {0: "batch"}, {1: "length"}
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "heads": lambda x: x.view(x.shape[0], -1, 4, 8),
    "heads to batch": lambda x: x.view(x.shape[0], x.shape[1], 4, 8).mT.contiguous().view(-1, x.shape[1], 8),
    "reshape": lambda x: x.reshape(x.shape[0], -1, 4, 8),
    "flat": lambda x: x.view(x.shape[0], -1),
    "sum of sizes": lambda x: torch.cat([x, x[:1]]).view(x.shape[0] + 1, -1),
}


@pytest.mark.parametrize("dynamic", [BOTH, BATCH, LENGTH], ids=["both", "batch", "length"])
@pytest.mark.parametrize("name", VIEWS)
def test_an_inferred_axis_beside_dynamic_sizes(name: str, dynamic: dict[int, str], tmp_path: Path) -> None:
    def value_and_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        return VIEWS[name](x), grad(lambda x: VIEWS[name](x).sin().sum())(x)

    export.to_onnx(value_and_gradient, (X,), tmp_path / "f.onnx", dynamic=(dynamic,))
    file = export.load(tmp_path / "f.onnx", device="cpu")
    for batch in (1, 2, 3) if 0 in dynamic else (2,):
        for length in (1, 5, 12) if 1 in dynamic else (12,):
            x = X.repeat(2, 1, 1)[:batch, :length]
            torch.testing.assert_close(file(x), value_and_gradient(x))
