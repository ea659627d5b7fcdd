"""Resizing to a size and by a factor, antialiased or not, of even and odd sizes, with its gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad

import export

GENERATOR = torch.Generator().manual_seed(0)
SPACES = {
    "linear": torch.randn(1, 2, 7, generator=GENERATOR),
    "bilinear": torch.randn(1, 2, 5, 7, generator=GENERATOR),
    "bicubic": torch.randn(1, 2, 5, 7, generator=GENERATOR),
    "trilinear": torch.randn(1, 2, 3, 5, 4, generator=GENERATOR),
}
FACTORS = (0.5, 1.7, 2.0)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"{mode} by {factor}": (mode, {"scale_factor": factor}) for mode in SPACES for factor in FACTORS},
    **{
        f"antialiased {mode} by {factor}": (mode, {"scale_factor": factor, "antialias": True})
        for mode in ("bilinear", "bicubic")
        for factor in FACTORS
    },
    **{
        f"antialiased {mode} to {size}, corners {corners}": (
            mode,
            {"size": size, "antialias": True, "align_corners": corners},
        )
        for mode in ("bilinear", "bicubic")
        for size in ((3, 2), (9, 11))
        for corners in (False, True)
    },
    "trilinear to a size": ("trilinear", {"size": (3, 5, 6)}),
    "trilinear by corners": ("trilinear", {"size": (5, 3, 6), "align_corners": True}),
}


@pytest.mark.parametrize(("mode", "settings"), CASES.values(), ids=CASES)
def test_resizing_and_its_gradient(mode: str, settings: dict[str, Any]) -> None:
    def resized(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, mode=mode, **settings)

    def both(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return resized(x), grad(lambda x: resized(x).square().sum())(x)

    verdict = export.verify(both, (SPACES[mode],), device="cpu")
    assert verdict.passed, verdict.table()
