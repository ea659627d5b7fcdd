"""Growing an orthonormal basis by a block of vectors, in which some may already lie in its span."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Extension", "extend", "gaussian"]


@dataclass(frozen=True, eq=False)
class Extension:
    """What `extend` finds: block = basis @ inside + added @ beyond, to rounding.

    Attributes:
        added: (n, c), orthonormal and orthogonal to the basis; c is below b only where the space is full.
        inside: (m, b), float64, the block's coordinates in the basis.
        beyond: (c, b), float64, its coordinates in the added vectors; zero rows where a random vector stands in.
    """

    added: Tensor
    inside: Tensor
    beyond: Tensor


def gaussian(
    shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Return standard normal numbers, drawn on the generator's device: the same bits wherever they end up."""
    return torch.randn(shape, generator=generator, dtype=dtype, device=generator.device).to(device)


def extend(basis: Tensor, block: Tensor, scale: float, generator: torch.Generator) -> Extension:
    """Orthonormalise the columns of `block` against those of `basis` and against each other.

    A column that lies in the span of what is there already, up to rounding at `scale`, gives way to a random one, so
    that a Krylov space that has closed goes on elsewhere and finds the other copies of a multiple eigenvalue.

    Args:
        basis: (n, m), orthonormal columns.
        block: (n, b).
        scale: the norm against which a remainder counts as rounding.
        generator: for the vectors that stand in.

    Source: Giraud, Langou and Rozložník 2005, "twice is enough" for classical Gram–Schmidt.
    """
    size, width = block.shape
    epsilon = torch.finfo(block.dtype).eps
    lost = epsilon * size**0.5 * scale
    inside = torch.zeros(basis.shape[1], width, dtype=torch.float64, device=block.device)
    for _ in range(2):
        coordinates = basis.T @ block
        block = block - basis @ coordinates
        inside += coordinates.double()
    room = size - basis.shape[1]
    added = block.new_empty(size, min(width, room))
    beyond = torch.zeros(min(width, room), width, dtype=torch.float64, device=block.device)
    count = 0
    for column in range(width):
        rest = block[:, column]
        before = float(torch.linalg.vector_norm(rest, dtype=torch.float64))
        rest = _without(rest, added[:, :count], beyond[:count, column])
        norm = float(torch.linalg.vector_norm(rest, dtype=torch.float64))
        if count == room:
            continue
        if norm <= lost or norm == 0.0:
            fresh = gaussian((size,), generator, torch.float64, block.device).to(block.dtype)
            for _ in range(3):  # a random vector may lie close to a nearly full basis
                fresh = fresh - basis @ (basis.T @ fresh)
                fresh = _without(fresh, added[:, :count], None)
                fresh = fresh / torch.linalg.vector_norm(fresh)
            added[:, count] = fresh
        else:
            beyond[count, column] = norm
            rest = rest / norm
            if norm < 0.5 * before:
                rest = _without(rest, basis, None)
                rest = _without(rest, added[:, :count], None)
                rest = rest / torch.linalg.vector_norm(rest)
            added[:, count] = rest
        count += 1
    return Extension(added[:, :count], inside, beyond[:count])


def _without(vector: Tensor, basis: Tensor, coordinates: Tensor | None) -> Tensor:
    """Return the vector without its part in the span, whose coordinates are added to `coordinates`."""
    for _ in range(2):
        found = basis.T @ vector
        vector = vector - basis @ found
        if coordinates is not None:
            coordinates += found.double()
    return vector
