"""Norms of sums of outer products Σ_t g_t ⊗ a_t, without forming them where that is cheaper."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["outer_norm", "outer_sum"]

# Shapes: a is (batch, time, groups, inputs), g is (batch, time, groups, outputs).


def outer_sum(a: Tensor, g: Tensor) -> Tensor:
    """Return Σ_t g_t ⊗ a_t: (batch, groups, outputs, inputs)."""
    return g.permute(0, 2, 3, 1) @ a.permute(0, 2, 1, 3)


def outer_norm(a: Tensor, g: Tensor) -> Tensor:
    """Return the Euclidean norm of Σ_t g_t ⊗ a_t over groups, outputs and inputs: (batch,), float64.

    One time step: ‖g‖ ‖a‖. More: by the Gram matrices, ‖Σ_t g_t ⊗ a_t‖² = Σ_st ⟨a_s, a_t⟩⟨g_s, g_t⟩, in float64 because
    its terms may cancel, or by the product itself, whichever is the smaller computation. Each sample is scaled to
    norm 1 first, so that nothing under- or overflows on the way.

    Source: Goodfellow 2015 (1510.01799), equation 3, for one step; Bu et al. 2022 (2205.10683), section 3, for the
    choice between the two roads.

    Example:
        >>> a, g = torch.ones(2, 1, 1, 3), torch.full((2, 1, 1, 4), 2.0)
        >>> outer_norm(a, g) == 12**0.5 * 2
        tensor([True, True])
    """
    time, inputs, outputs = a.shape[1], a.shape[3], g.shape[3]
    if time == 1:
        per_group = _norm(a, 3) * _norm(g, 3)
        return torch.linalg.vector_norm(per_group, dim=(1, 2))
    a, a_norm = _scaled(a)
    g, g_norm = _scaled(g)
    if time * (inputs + outputs) < inputs * outputs:
        a_gram, g_gram = (v.double().permute(0, 2, 1, 3) @ v.double().permute(0, 2, 3, 1) for v in (a, g))
        unit = (a_gram * g_gram).sum(dim=(1, 2, 3)).clamp_min(0).sqrt()
    else:
        unit = torch.linalg.vector_norm(outer_sum(a, g).flatten(1), dim=1, dtype=torch.float64)
    return unit * a_norm * g_norm


def _norm(v: Tensor, dim: int) -> Tensor:
    return torch.linalg.vector_norm(v, dim=dim, dtype=torch.float64)


def _scaled(v: Tensor) -> tuple[Tensor, Tensor]:
    """Return each sample divided by a number near its norm, at least in float32, and those numbers in float64."""
    wide = torch.promote_types(v.dtype, torch.float32)
    norm = torch.linalg.vector_norm(v.flatten(1), dim=1, dtype=torch.float64)
    scale = torch.where(norm == 0, 1.0, norm).clamp(torch.finfo(wide).tiny, torch.finfo(wide).max).to(wide)
    return v.to(wide) / scale[:, None, None, None], scale.double()
