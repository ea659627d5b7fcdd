"""Lanczos for a symmetric operator that is known only by its product with a vector.

    tridiagonal(matvec, start, steps)                     T and its basis, full reorthogonalisation
    eigenpairs(matvec, size, k, generator=…)              the k largest, smallest or largest in magnitude
    quadrature(matvec, size, probes, steps, generator=…)  nodes and weights a probe: densities, moments, with intervals
    trace(matvec, size, probes, generator=…)              Hutch++, with an interval

`matvec` is a pure function from (size,) to (size,), linear and symmetric. Several vectors go through it together by
`torch.func.vmap`, `chunk_size` of them at a time; `chunk_size=1` runs them one by one without vmap. `dtype` is that of
the vectors; coefficients are float64 always.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pure.errors import ArgumentError
from pure.flow.linalg.block_lanczos import Eigenpairs, eigenpairs
from pure.flow.linalg.hutchinson import trace
from pure.flow.linalg.operator_products import Matvec, products
from pure.flow.linalg.orthonormal import gaussian
from pure.flow.linalg.quadrature import Quadrature

__all__ = ["Eigenpairs", "Matvec", "Tridiagonal", "eigenpairs", "products", "quadrature", "trace", "tridiagonal"]


@dataclass(frozen=True, eq=False)
class Tridiagonal:
    """QᵀAQ = T for each start vector.

    Attributes:
        diagonal: (probes, steps), float64.
        off_diagonal: (probes, steps − 1), float64; 0 where the Krylov space closed, and everything behind it is 0 too.
        residual: (probes,), float64: the next off-diagonal entry, ‖AQ − QT‖.
        basis: (probes, steps, size), Q's columns as rows.
    """

    diagonal: Tensor
    off_diagonal: Tensor
    residual: Tensor
    basis: Tensor

    @property
    def matrix(self) -> Tensor:
        """T: (probes, steps, steps)."""
        off = self.off_diagonal
        return torch.diag_embed(self.diagonal) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)


def tridiagonal(matvec: Matvec, start: Tensor, steps: int, *, chunk_size: int | None = None) -> Tridiagonal:
    """Run Lanczos from each start vector, reorthogonalised in full twice a step.

    Args:
        matvec: (size,) → (size,), linear and symmetric.
        start: (size,) or (probes, size), any length but 0.
        steps: how many products for each start vector; no more than `size` are used.
        chunk_size: how many start vectors go through `matvec` together.

    Raises:
        ArgumentError: fewer than one step, or a start vector that is zero or not finite.

    Source: Golub and Van Loan 2013, algorithm 10.1.1 and section 10.3.5.

    Example:
        >>> A = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
        >>> found = tridiagonal(lambda v: A @ v, torch.ones(3, dtype=torch.float64), steps=3)
        >>> torch.linalg.eigvalsh(found.matrix[0])
        tensor([1.0000, 2.0000, 3.0000], dtype=torch.float64)
    """
    if steps < 1:
        raise ArgumentError(f"Lanczos steps={steps}: expected at least 1")
    start = start[None] if start.ndim == 1 else start
    probes, size = start.shape
    norms = torch.linalg.vector_norm(start, dim=1, keepdim=True)
    if not (torch.isfinite(norms) & (norms > 0)).all():
        raise ArgumentError("Lanczos from a start vector that is 0 or not finite")
    steps = min(steps, size)
    basis = start.new_zeros(probes, steps, size)
    diagonal = torch.zeros(probes, steps, dtype=torch.float64, device=start.device)
    off = torch.zeros(probes, steps, dtype=torch.float64, device=start.device)
    scale = torch.zeros(probes, dtype=torch.float64, device=start.device)
    lost = torch.finfo(start.dtype).eps * size**0.5
    q = start / norms
    for step in range(steps):
        basis[:, step] = q
        w = products(matvec, q, chunk_size)
        scale = torch.maximum(scale, torch.linalg.vector_norm(w, dim=1, dtype=torch.float64))
        known = basis[:, : step + 1]
        for _ in range(2):
            coordinates = known @ w[:, :, None]
            w = w - (coordinates * known).sum(1)
            diagonal[:, step] += coordinates[:, -1, 0].double()
        beta = torch.linalg.vector_norm(w, dim=1, dtype=torch.float64)
        beta = torch.where(beta > lost * scale, beta, 0.0)
        off[:, step] = beta
        if not beta.any():
            break
        q = torch.where(beta[:, None] > 0, w / beta.where(beta > 0, 1.0).to(w.dtype)[:, None], 0.0)
    return Tridiagonal(diagonal, off[:, :-1], off[:, -1], basis)


def quadrature(
    matvec: Matvec,
    size: int,
    probes: int = 16,
    steps: int = 64,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    chunk_size: int | None = None,
) -> Quadrature:
    """Return stochastic Lanczos quadrature: for every probe v, nodes θ and weights w with vᵀf(A)v ≈ Σ w f(θ).

    The probes are uniform on the unit sphere, so that the mean over probes estimates tr f(A) / size without bias and
    its spread depends on the spectrum alone. For a polynomial f of degree up to 2·steps − 1 the rule is exact.

    Args:
        matvec: (size,) → (size,), linear and symmetric.
        size: of the vectors.
        probes: how many random vectors, at least 2.
        steps: products for each probe.
        generator: for the probes.
        dtype: of the vectors.
        device: of the vectors.
        chunk_size: how many probes run together; the memory is chunk_size · steps · size numbers.

    Raises:
        ArgumentError: fewer than 2 probes, which give no interval.

    Source: Ubaru, Chen and Saad 2017, section 3; Golub and Welsch 1969 for nodes and weights.

    Example:
        >>> rule = quadrature(lambda v: 2 * v, size=5, generator=torch.Generator().manual_seed(0))
        >>> print(rule.mean(lambda theta: theta**2))
        4 [4, 4]
    """
    if probes < 2:
        raise ArgumentError(f"quadrature from {probes} probes: expected at least 2, for an interval")
    start = gaussian((probes, size), generator, torch.float64, device).to(dtype)
    nodes, weights = [], []
    for part in start.split(chunk_size or probes):
        found = tridiagonal(matvec, part, steps, chunk_size=chunk_size)
        values, vectors = torch.linalg.eigh(found.matrix)
        nodes.append(values)
        weights.append(vectors[:, 0].square())
    return Quadrature(torch.cat(nodes), torch.cat(weights), size)
