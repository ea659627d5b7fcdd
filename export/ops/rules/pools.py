"""Adaptive maximum pooling: windows by indexing, whose sizes differ by one at most."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

aten: Any = torch.ops.aten


def _windows(size: int, count: int) -> torch.Tensor:
    """Positions of each window's values, the last one repeated where a window is shorter than others."""
    starts = [i * size // count for i in range(count)]
    ends = [-((i + 1) * size // -count) for i in range(count)]
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    rows = [[min(start + j, end - 1) for j in range(longest)] for start, end in zip(starts, ends, strict=True)]
    return torch.tensor(rows)


def _adaptive_max(x: torch.Tensor, output_size: Sequence[int]) -> Any:
    """The largest value of each window, and its position in the plane."""
    rank = len(output_size)
    sizes = x.shape[-rank:]
    if not all(isinstance(size, int) for size in (*sizes, *output_size)):
        return NotImplemented
    indices: list[torch.Tensor] = []
    for axis, (size, count) in enumerate(zip(sizes, output_size, strict=True)):
        window = _windows(size, count)
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = window.shape
        indices.append(window.reshape(shape).to(x.device))
    places: Any = (..., *indices)
    picked = x[places].flatten(-rank)
    plane = torch.arange(math.prod(sizes), device=x.device).reshape(sizes)
    where = plane[tuple(indices)].flatten(-rank)
    values, first = picked.max(-1)
    return values, where.expand(picked.shape).gather(-1, first.unsqueeze(-1)).squeeze(-1)


def _adaptive_max_backward(rank: int) -> Callable[..., torch.Tensor]:
    """Each derivative is added where its value came from."""

    def rule(grad: torch.Tensor, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        flat = torch.zeros_like(x).flatten(-rank)
        return flat.scatter_add(-1, indices.flatten(-rank), grad.flatten(-rank)).reshape(x.shape)

    return rule


RULES: dict[Any, Callable[..., Any]] = {
    aten.adaptive_max_pool2d.default: _adaptive_max,
    aten.adaptive_max_pool3d.default: _adaptive_max,
    aten.adaptive_max_pool2d_backward.default: _adaptive_max_backward(2),
    aten.adaptive_max_pool3d_backward.default: _adaptive_max_backward(3),
}
"""Adaptive pooling."""
