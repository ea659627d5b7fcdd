"""Resizing to a size and by a factor, antialiased or not, of even and odd sizes, with its gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, vjp

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


IMAGE = torch.randn(2, 3, 8, 8, generator=GENERATOR)
FORMS: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "nearest, whole factor": ({"scale_factor": 2}, ["Resize"], ["AveragePool", "Mul"]),
    "nearest, other size": ({"size": (5, 13)}, ["Gather", "Gather"], ["MatMul", "MatMul"]),
    "bilinear": ({"scale_factor": 2, "mode": "bilinear"}, ["MatMul", "MatMul"], ["MatMul", "MatMul"]),
    "bicubic": ({"scale_factor": 2, "mode": "bicubic"}, ["MatMul", "MatMul"], ["MatMul", "MatMul"]),
    "antialiased": ({"size": (3, 4), "mode": "bilinear", "antialias": True}, ["MatMul"] * 2, ["MatMul"] * 2),
}


@pytest.mark.parametrize(("settings", "forward", "backward"), FORMS.values(), ids=FORMS)
def test_a_resize_and_its_transpose_are_a_node_or_two(
    settings: dict[str, Any], forward: list[str], backward: list[str], tmp_path: Path
) -> None:
    def resized(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, **settings)

    def transposed(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        (result,) = vjp(resized, x)[1](y)
        return cast(torch.Tensor, result)

    export.to_onnx(resized, (IMAGE,), tmp_path / "forward.onnx")
    export.to_onnx(transposed, (IMAGE, resized(IMAGE)), tmp_path / "backward.onnx")
    found = [[n.op_type for n in onnx.load(tmp_path / f"{kind}.onnx").graph.node] for kind in ("forward", "backward")]
    assert found == [forward, backward]


def test_a_whole_factor_of_dynamic_sizes_needs_no_computed_size(tmp_path: Path) -> None:
    def both(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        def doubled(x: torch.Tensor) -> torch.Tensor:
            return F.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]))

        return doubled(x), grad(lambda x: doubled(x).square().sum())(x)

    sizes = ({0: "batch", 2: "height", 3: "width"},)
    verdict = export.verify(both, (IMAGE,), dynamic=sizes, device="cpu")
    assert verdict.passed, verdict.table()
    export.to_onnx(lambda x: both(x)[0], (IMAGE,), tmp_path / "forward.onnx", dynamic=sizes)
    assert [node.op_type for node in onnx.load(tmp_path / "forward.onnx").graph.node] == ["Resize"]
