"""Norms of sums of outer products Σ_t g_t ⊗ a_t, without forming them where that is cheaper."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pure.layers.alignment import widen

__all__ = [
    "FLOAT64_COST",
    "cross_term",
    "gram",
    "outer_norm",
    "outer_sum",
    "row_norms",
    "row_slices",
    "scaled",
]

# Shapes: a is (batch, time, groups, inputs), g is (batch, time, groups, outputs).

FLOAT64_COST = 3
"""Time of a product in float64, in products in float32; it only chooses between exact methods."""

MAX_CACHED_VALUES = 2**17
"""Values converted to float64 together on a CPU: they stay in its cache, and their memory is used again."""


def row_slices(rows: int, values_each: int, device: torch.device, budget: float = 2.0**28) -> Iterator[slice]:
    """Cut the samples so that what is formed for those of one slice stays small.

    Args:
        rows: how many samples there are.
        values_each: what one of them takes, in float64 values.
        device: on a CPU the slices fit its cache, elsewhere the budget.
        budget: in bytes.

    Example:
        >>> [(part.start, part.stop) for part in row_slices(5, 2**16, torch.device("cpu"))]
        [(0, 2), (2, 4), (4, 5)]
    """
    room = budget / 8 if device.type != "cpu" else min(budget / 8, MAX_CACHED_VALUES)
    step = max(1, int(room // max(1, values_each)))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def row_norms(v: Tensor) -> Tensor:
    """Return the norm of every row (batch, …) in float64: (batch,); the squares are scaled where they would overflow.

    Example:
        >>> row_norms(torch.tensor([[3e200, 4e200], [0.0, 0.0]], dtype=torch.float64))
        tensor([5.0000e+200,  0.0000e+00], dtype=torch.float64)
    """
    flat = v if v.ndim == 2 else v.reshape(len(v), -1)
    if flat.dtype == torch.float64:
        norms = torch.linalg.vector_norm(flat, dim=1)
        if flat.numel() and not ((norms > 1e-140) & (norms < 1e140)).all():
            largest = torch.linalg.vector_norm(flat, ord=torch.inf, dim=1)
            scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
            norms = torch.linalg.vector_norm(flat / scale[:, None], dim=1) * scale
        return norms
    if flat.numel() <= MAX_CACHED_VALUES or flat.device.type != "cpu":
        return torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)
    slices = row_slices(len(flat), flat.shape[1], flat.device)
    return torch.cat([torch.linalg.vector_norm(flat[rows], dim=1, dtype=torch.float64) for rows in slices])


def outer_sum(a: Tensor, g: Tensor) -> Tensor:
    """Return Σ_t g_t ⊗ a_t: (batch, groups, outputs, inputs)."""
    return g.permute(0, 2, 3, 1) @ a.permute(0, 2, 1, 3)


def outer_norm(a: Tensor, g: Tensor, budget: float = 2.0**28) -> Tensor:
    """Return the Euclidean norm of Σ_t g_t ⊗ a_t over groups, outputs and inputs: (batch,), float64.

    One time step: ‖g‖ ‖a‖. More: by the Gram matrices, ‖Σ_t g_t ⊗ a_t‖² = Σ_st ⟨a_s, a_t⟩⟨g_s, g_t⟩, in float64 because
    its terms may cancel, or by the product itself, whichever is the smaller computation. Each sample is scaled to
    largest value 1 first, so that nothing under- or overflows on the way. A few samples are worked on at a time.

    Args:
        a: (batch, time, groups, inputs).
        g: (batch, time, groups, outputs).
        budget: memory for what is formed in bytes, away from the CPU, where slices fit the cache.

    Source: Goodfellow 2015 (1510.01799), equation 3, for one step; Bu et al. 2022 (2205.10683), section 3, for the
    choice between the two.

    Example:
        >>> a, g = torch.ones(2, 1, 1, 3), torch.full((2, 1, 1, 4), 2.0)
        >>> outer_norm(a, g) == 12**0.5 * 2
        tensor([True, True])
    """
    batch, time, groups, inputs = a.shape
    outputs = g.shape[3]
    if time == 1 and groups == 1:
        return row_norms(a) * row_norms(g)
    by_gram = FLOAT64_COST * time * (inputs + outputs) < inputs * outputs
    each = groups * (time * (inputs + outputs) + (2 * time * time if by_gram else inputs * outputs))
    norms = a.new_zeros(batch, dtype=torch.float64)
    for rows in row_slices(batch, each, a.device, budget):
        left, left_scale = scaled(a[rows])
        right, right_scale = scaled(g[rows])
        if by_gram:
            unit = (gram(left) * gram(right)).sum(dim=(1, 2, 3)).clamp_min(0).sqrt()
        else:
            dtype = torch.promote_types(left.dtype, right.dtype)
            unit = row_norms(outer_sum(left.to(dtype), right.to(dtype)))
        norms[rows] = unit * left_scale * right_scale
    return norms


def gram(v: Tensor) -> Tensor:
    """Return ⟨v_s, v_t⟩ of (batch, time, groups, values) in float64: (batch, groups, time, time)."""
    wide = v.double().permute(0, 2, 1, 3)
    return wide @ wide.mT


def cross_term(a: Tensor, g: Tensor, h: Tensor, index: Tensor) -> Tensor:
    """Return ⟨Σ_t g_t ⊗ a_t, Σ_s e(index_s) ⊗ h_s⟩ in float64: (batch,).

    Args:
        a: (batch, time, inputs).
        g: (batch, time, rows).
        h: (batch, steps, inputs).
        index: (batch, steps), which of the rows; e(i) is the i-th unit vector.
    """
    picked = g.gather(2, index[:, None, :].expand(-1, g.shape[1], -1)).double()
    return (picked * (a.double() @ h.double().mT)).sum(dim=(1, 2))


def scaled(v: Tensor) -> tuple[Tensor, Tensor]:
    """Return each sample divided by its largest absolute value, at least in float32, and those values in float64."""
    wide = widen(v)
    flat = wide.reshape(len(wide), -1)
    largest = torch.linalg.vector_norm(flat, ord=torch.inf, dim=1)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    return wide / scale.reshape(-1, *(1,) * (wide.ndim - 1)), scale.double()
