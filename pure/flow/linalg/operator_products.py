"""Products of an operator with several vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pure.errors import ShapeError, UnsupportedError

__all__ = ["Matvec", "products"]

Matvec = Callable[[Tensor], Tensor]


def products(matvec: Matvec, vectors: Tensor, chunk_size: int | None = None, rows: int | None = None) -> Tensor:
    """Return the operator times every row of `vectors`: (p, size) → (p, rows), `rows` being the size if left out.

    Raises:
        ShapeError: the operator returns another shape.
        UnsupportedError: a product holds NaN or infinity.
    """
    if chunk_size == 1 or len(vectors) == 1:
        out = torch.stack([matvec(vector) for vector in vectors])
    else:
        out = torch.func.vmap(matvec, chunk_size=chunk_size)(vectors)
    expected = vectors.shape[1] if rows is None else rows
    if out.shape[1:] != (expected,):
        raise ShapeError(
            f"matvec of {tuple(vectors.shape[1:])} returned {tuple(out.shape[1:])}, expected ({expected},)"
        )
    if not torch.isfinite(out).all():
        raise UnsupportedError(
            "a product with the operator holds NaN or infinity: look for NaN in the inputs, an infinite derivative "
            "(sqrt or log at 0), or values beyond the range of the dtype: try float64"
        )
    return out.detach().to(vectors.dtype)
