"""A few extreme eigenpairs of a symmetric operator: block Lanczos with thick restarts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Unpack

import torch
from torch import Tensor

from pure.errors import ArgumentError
from pure.flow.linalg.krylov_loop import KrylovOptions, Options, extreme
from pure.flow.linalg.operator_products import Matvec, products
from pure.flow.linalg.orthonormal import extend, gaussian

__all__ = ["Eigenpairs", "Which", "eigenpairs"]

Which = Literal["largest", "smallest", "magnitude"]


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Some eigenpairs of a symmetric operator.

    Attributes:
        values: (k,), float64; largest first, or smallest first, or largest magnitude first, as asked.
        vectors: (size, k), orthonormal columns.
        residuals: (k,), float64: ‖Av − λv‖; an eigenvalue lies within this distance of each value.
        converged: (k,), bool: the residual is below the tolerance.
        products: how many products with the operator were used.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: Tensor
    products: int


def eigenpairs(
    matvec: Matvec,
    size: int,
    k: int,
    *,
    which: Which = "largest",
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    chunk_size: int | None = None,
    **options: Unpack[KrylovOptions],
) -> Eigenpairs:
    """Return k extreme eigenpairs by block Lanczos with full reorthogonalisation and thick restarts.

    What has not converged when the products are used up is returned too, marked so in `converged`.

    Args:
        matvec: (size,) → (size,), linear and symmetric.
        size: of the vectors.
        k: how many.
        which: "largest", "smallest" or "magnitude".
        generator: for the start vectors.
        dtype: of the vectors.
        device: of the vectors.
        chunk_size: how many vectors go through `matvec` together.
        options: see `KrylovOptions`; the residual is ‖Av − λv‖.

    Raises:
        ArgumentError: k beyond the size, or an unknown `which`.
        UnsupportedError: a product that is not finite.

    Source: Wu and Simon 2000, thick-restart Lanczos; Golub and Underwood 1977, block Lanczos.

    Example:
        >>> A = torch.diag(torch.tensor([3.0, 3.0, 2.0, 1.0], dtype=torch.float64))
        >>> eigenpairs(lambda v: A @ v, 4, 2, generator=torch.Generator().manual_seed(0)).values
        tensor([3.0000, 3.0000], dtype=torch.float64)
    """
    if which not in ("largest", "smallest", "magnitude"):
        raise ArgumentError(f"which={which!r}: expected 'largest', 'smallest' or 'magnitude'")
    chosen = Options.of(size, k, dtype, **options)
    start = torch.zeros(size, 0, dtype=dtype, device=device)
    process = _Lanczos(matvec, which, start, chosen.block, generator, chunk_size)
    solved = extreme(process, chosen)
    vectors = (process.basis @ process.vectors[:, :k].to(dtype)).contiguous()
    return Eigenpairs(process.values[:k], vectors, solved.residuals, solved.converged, solved.products)


class _Lanczos:
    """AV = V H + R, R in the span of the next block; H is formed by projection, whatever was restarted."""

    def __init__(
        self, matvec: Matvec, which: Which, empty: Tensor, width: int, generator: torch.Generator, chunk: int | None
    ) -> None:
        self.matvec, self.which, self.width = matvec, which, width
        self.generator, self.chunk = generator, chunk
        self.size, self.scale = len(empty), 0.0
        self.basis = empty
        self.matrix = torch.zeros(0, 0, dtype=torch.float64, device=empty.device)
        self.next = self._random()

    @property
    def columns(self) -> int:
        """How many vectors the basis holds."""
        return self.basis.shape[1]

    @property
    def closed(self) -> bool:
        """Whether the basis fills the space."""
        return self.next.shape[1] == 0

    def _random(self) -> Tensor:
        drawn = gaussian((self.size, self.width), self.generator, torch.float64, self.basis.device)
        return extend(self.basis, drawn.to(self.basis.dtype), 0.0, self.generator).added

    def grow(self) -> int:
        """Multiply the next block and find the Ritz values."""
        width = self.next.shape[1]
        image = products(self.matvec, self.next.T, self.chunk).T
        self.scale = max(self.scale, float(torch.linalg.vector_norm(image, dim=0, dtype=torch.float64).max()))
        self.basis = torch.cat([self.basis, self.next], dim=1)
        found = extend(self.basis, image, self.scale, self.generator)
        old = len(self.matrix)
        corner = (found.inside[old:] + found.inside[old:].T) / 2
        above = torch.cat([self.matrix, found.inside[:old]], 1)
        self.matrix = torch.cat([above, torch.cat([found.inside[:old].T, corner], 1)])
        values, vectors = torch.linalg.eigh(self.matrix)
        keys = {"largest": -values, "smallest": values, "magnitude": -values.abs()}
        order = keys[self.which].argsort(stable=True)
        self.values, self.vectors = values[order], vectors[:, order]
        self.residuals = torch.linalg.vector_norm(found.beyond @ self.vectors[-width:], dim=0)
        self.next = found.added
        return width

    def restart(self, keep: int, fresh: bool) -> None:
        """Keep the first Ritz pairs."""
        self.basis = self.basis @ self.vectors[:, :keep].to(self.basis.dtype)
        self.matrix = torch.diag(self.values[:keep])
        if fresh:
            self.next = self._random()
