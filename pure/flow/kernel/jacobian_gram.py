"""Products of Jacobians J₁J₂ᵀ from their factors, without forming the Jacobians where that is cheaper."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Factors", "gram", "outer_gram"]

MAX_INTERMEDIATE_BYTES = 128 * 2**20


@dataclass(frozen=True, eq=False)
class Factors:
    """The Jacobian Σ_t s_t ⊗ a_t of some samples' outputs w.r.t. one weight.

    Attributes:
        a: (samples, positions, groups, inputs).
        s: (outputs, samples, positions, groups, channels).
    """

    a: Tensor
    s: Tensor


def gram(j1: Tensor, j2: Tensor, full: bool) -> Tensor:
    """Return the product of two Jacobians.

    Args:
        j1: (outputs, samples, values).
        j2: likewise.
        full: False sums over equal outputs.

    Returns:
        (samples, samples), or (samples, samples, outputs, outputs); float64.
    """
    if full:
        return torch.einsum("onv,pmv->nmop", j1, j2).double()
    if len(j1) == 1:
        return (j1[0] @ j2[0].T).double()
    return (j1.transpose(0, 1).flatten(1) @ j2.transpose(0, 1).flatten(1).T).double()


def outer_gram(f1: Factors, f2: Factors, full: bool) -> Tensor:
    """Return the product of two Jacobians that are sums of outer products.

    One position: ⟨a, a'⟩⟨s, s'⟩. More: Σ_tt' ⟨a_t, a'_t'⟩⟨s_t, s'_t'⟩, or the outer products themselves, whichever is
    the smaller computation.

    Args:
        f1: of the one batch.
        f2: of the other.
        full: False sums over equal outputs.

    Returns:
        (samples, samples), or (samples, samples, outputs, outputs); float64.

    Source: Novak, Sohl-Dickstein and Schoenholz 2022 (2206.08720), section 3.4, structured derivatives.

    Example:
        >>> f = Factors(torch.ones(2, 1, 1, 3), torch.ones(4, 2, 1, 1, 5))
        >>> outer_gram(f, f, full=False)
        tensor([[60., 60.],
                [60., 60.]], dtype=torch.float64)
    """
    outputs, samples, positions, groups, channels = f1.s.shape
    others, values = f2.s.shape[1], f1.a.shape[3]
    pairs = outputs * outputs if full else outputs
    by_gram = samples * others * positions**2 * (values + pairs * channels)
    formed = (samples + others) * outputs * positions * channels * values
    by_product = formed + samples * others * pairs * channels * values
    if positions == 1 or by_gram <= by_product:
        # Rows are pairs of a position and, in a full kernel, an output; the rest is chunked over the samples.
        row_bytes = groups * positions**2 * others * (outputs**2 if full else 1) * f1.a.element_size()
        step = max(1, MAX_INTERMEDIATE_BYTES // max(1, row_bytes))
        parts = [
            _by_gram(Factors(f1.a[at : at + step], f1.s[:, at : at + step]), f2, full) for at in range(0, samples, step)
        ]
        return torch.cat(parts)
    step = max(
        1, MAX_INTERMEDIATE_BYTES // max(1, outputs * max(samples, others) * values * groups * f1.a.element_size())
    )
    shape = (samples, others, outputs, outputs) if full else (samples, others)
    total = torch.zeros(shape, dtype=torch.float64, device=f1.a.device)
    for at in range(0, channels, step):
        total += gram(_formed(f1, at, step), _formed(f2, at, step), full)
    return total


def _formed(f: Factors, at: int, step: int) -> Tensor:
    """Return some channels' rows of the Jacobian: (outputs, samples, values)."""
    s = f.s[..., at : at + step].permute(0, 1, 3, 4, 2)  # (outputs, samples, groups, channels, positions)
    return (s @ f.a.permute(0, 2, 1, 3)).flatten(2)


def _by_gram(f1: Factors, f2: Factors, full: bool) -> Tensor:
    outputs, n, t, _, _ = f1.s.shape
    m = len(f2.a)
    a1, a2 = (f.a.permute(2, 0, 1, 3).flatten(1, 2) for f in (f1, f2))  # (groups, samples · positions, values)
    a_gram = (a1 @ a2.transpose(1, 2)).unflatten(2, (m, t)).unflatten(1, (n, t))  # (groups, n, t, m, t)
    if not full:
        s1, s2 = (f.s.permute(3, 1, 2, 0, 4).flatten(3).flatten(1, 2) for f in (f1, f2))
        s_gram = (s1 @ s2.transpose(1, 2)).unflatten(2, (m, t)).unflatten(1, (n, t))
        return (a_gram.double() * s_gram.double()).sum((0, 2, 4))
    s1, s2 = (f.s.permute(3, 1, 2, 0, 4).flatten(1, 3) for f in (f1, f2))  # (groups, samples · positions · outputs, …)
    s_gram = (s1 @ s2.transpose(1, 2)).unflatten(2, (m, t, outputs)).unflatten(1, (n, t, outputs))
    return torch.einsum("gntmu,gntomup->nmop", a_gram.double(), s_gram.double())
