"""The norm of one weight's gradient where the weight is used several times, as a tied embedding is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pure.flow.per_sample.convolution import Convolution
from pure.flow.per_sample.embedding import Lookup, lookup_norm
from pure.flow.per_sample.linear import Product
from pure.flow.per_sample.outer_products import cross_term, outer_norm, row_norms
from pure.flow.per_sample.weight_use import WeightUse

__all__ = ["combined_norm", "compatible"]


def compatible(uses: Sequence[WeightUse]) -> bool:
    """Whether the uses of one weight fit together: convolutions of one number of groups, or products and lookups."""
    if all(isinstance(use, Convolution) for use in uses):
        return len({use.geometry.groups for use in uses if isinstance(use, Convolution)}) == 1
    return not any(isinstance(use, Convolution) for use in uses)


def combined_norm(group: Sequence[tuple[WeightUse, Tensor, Tensor]], budget: float) -> Tensor:
    """Return the norm of the sum of the gradients that several uses give one weight: (batch,), float64.

    Products are one product of more positions. A lookup is the product with a unit vector: ‖P + L‖² is
    ‖P‖² + ‖L‖² + 2⟨P, L⟩, and ⟨P, L⟩ needs only the rows that were looked up. Anything else is added up for a few
    samples at a time.

    Args:
        group: uses that are `compatible`, each with its inputs and the gradient w.r.t. its outputs.
        budget: memory for what is formed, in bytes.
    """
    products = [use.factors(x, g) for use, x, g in group if isinstance(use, Product)]
    lookups = [use.rows(x, g) for use, x, g in group if isinstance(use, Lookup)]
    sizes = {(left.shape[2], right.shape[2]) for left, right in products}
    sizes |= {(use.shape[0], math.prod(use.shape[1:])) for use, _, _ in group if isinstance(use, Lookup)}
    if len(products) + len(lookups) < len(group) or len(sizes) != 1:
        return _added(group, budget)
    if not products:
        return lookup_norm(torch.cat([index for index, _ in lookups], 1), torch.cat([s for _, s in lookups], 1))
    dtype = max((f.dtype for pair in products for f in pair), key=lambda dtype: torch.finfo(dtype).bits)
    left = torch.cat([left.to(dtype) for left, _ in products], 1)
    right = torch.cat([right.to(dtype) for _, right in products], 1)
    norms = outer_norm(right[:, :, None], left[:, :, None], budget)
    if not lookups:
        return norms
    index = torch.cat([index for index, _ in lookups], 1)
    signals = torch.cat([s for _, s in lookups], 1)
    rows = lookup_norm(index, signals)
    scale = torch.where(norms * rows > 0, norms * rows, 1.0).sqrt()
    cross = cross_term(right, left, signals, index)
    return ((norms / scale) ** 2 + (rows / scale) ** 2 + 2 * cross / scale**2).clamp_min(0).sqrt() * scale


def _added(group: Sequence[tuple[WeightUse, Tensor, Tensor]], budget: float) -> Tensor:
    first, x, _ = group[0]
    norms = [
        row_norms(torch.stack([use.gradient(x[rows], g[rows]) for use, x, g in group]).sum(0))
        for rows in first.slices(x, budget)
    ]
    return torch.cat(norms)
