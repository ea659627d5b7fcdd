"""Sampling by a grid and its gradients w.r.t. image and grid, at positions inside, outside and on the border."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

import export

GENERATOR = torch.Generator().manual_seed(0)
IMAGE = torch.randn(2, 3, 5, 7, generator=GENERATOR)
GRID = torch.rand(2, 6, 4, 2, generator=GENERATOR) * 3 - 1.5
GRID[0, 0, :, 0] = GRID[0, 0, :, 1] = torch.tensor([-1.0, 0.0, 0.5, 1.0])  # where PyTorch's slope at a border is 0
SETTINGS = list(itertools.product(("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"), (False, True)))


@pytest.mark.parametrize(("mode", "padding", "corners"), SETTINGS)
def test_samples_and_their_gradients(mode: str, padding: str, corners: bool) -> None:
    def sampled(x: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=corners)

    def both(x: Tensor, grid: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return sampled(x, grid), grad(lambda x, grid: sampled(x, grid).sin().sum(), argnums=(0, 1))(x, grid)

    verdict = export.verify(both, (IMAGE, GRID), device="cpu")
    assert verdict.passed, verdict.table()
