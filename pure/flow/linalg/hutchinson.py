"""The trace of an operator from random vectors: Hutch++."""

from __future__ import annotations

import torch

from pure.errors import ArgumentError
from pure.flow.linalg.operator_products import Matvec, products
from pure.flow.linalg.orthonormal import gaussian
from pure.flow.shared.estimate import Estimate, estimate

__all__ = ["trace"]


def trace(
    matvec: Matvec,
    size: int,
    probes: int = 32,
    *,
    sketch: int | None = None,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    chunk_size: int | None = None,
) -> Estimate:
    """Return the trace by Hutch++: exact on a sketched subspace, Hutchinson on the rest of the space.

    tr A = tr QᵀAQ + E[(n − s) uᵀAu], Q an orthonormal basis of A times s random vectors, u uniform on the unit sphere
    of Q's complement. It takes 2s + probes products; where the sketch fills the space, the trace is exact.

    Args:
        matvec: (size,) → (size,), linear and symmetric.
        size: of the vectors.
        probes: random vectors for the rest, at least 2; the interval is theirs.
        sketch: s; default as many as the probes. 0 is plain Hutchinson.
        generator: for both.
        dtype: of the vectors.
        device: of the vectors.
        chunk_size: how many vectors go through `matvec` together.

    Raises:
        ArgumentError: fewer than 2 probes, or a negative sketch.

    Source: Meyer, Musco, Musco and Woodruff 2021 (2010.09649), algorithm 1.

    Example:
        >>> print(trace(lambda v: 3 * v, size=40, generator=torch.Generator().manual_seed(0)))
        120 [120, 120]
    """
    sketch = probes if sketch is None else sketch
    if probes < 2 or sketch < 0:
        raise ArgumentError(f"trace from {probes} probes, sketch={sketch}: expected at least 2 and at least 0")
    basis = torch.zeros(size, 0, dtype=dtype, device=device)
    if sketch >= size:
        basis = torch.eye(size, dtype=dtype, device=device)
    elif sketch:
        drawn = gaussian((sketch, size), generator, torch.float64, device).to(dtype)
        basis = torch.linalg.qr(products(matvec, drawn, chunk_size).T).Q
    inside = 0.0
    if basis.shape[1]:
        inside = float((products(matvec, basis.T.contiguous(), chunk_size) * basis.T).sum(dtype=torch.float64))
    rest = size - basis.shape[1]
    if rest == 0:
        return Estimate(inside, inside, inside, 0.0, 0)
    u = gaussian((probes, size), generator, torch.float64, device).to(dtype)
    for _ in range(2):
        u = u - (u @ basis) @ basis.T
    u = u / torch.linalg.vector_norm(u, dim=1, keepdim=True)
    outside = estimate((products(matvec, u, chunk_size).double() * u.double()).sum(1) * rest)
    return Estimate(inside + outside.value, inside + outside.low, inside + outside.high, outside.standard_error, probes)
