"""The largest singular values of an operator known by its products and those of its transpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from pure.flow.linalg.krylov_loop import KrylovOptions, Options, extreme
from pure.flow.linalg.operator_products import Matvec, products
from pure.flow.linalg.orthonormal import extend, gaussian

__all__ = ["SingularTriplets", "singular_triplets"]


@dataclass(frozen=True, eq=False)
class SingularTriplets:
    """The k largest singular values and their vectors.

    Attributes:
        values: (k,), float64, largest first.
        left: (outputs, k), orthonormal columns u.
        right: (inputs, k), orthonormal columns v.
        residuals: (k,), float64: ‖Jᵀu − σv‖; Jv = σu holds to rounding. A singular value lies within this distance.
        converged: (k,), bool.
        products: how many products with J and as many with Jᵀ were used.
    """

    values: Tensor
    left: Tensor
    right: Tensor
    residuals: Tensor
    converged: Tensor
    products: int


def singular_triplets(
    forward: Matvec,
    backward: Matvec,
    outputs: int,
    inputs: int,
    k: int,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    chunk_size: int | None = None,
    **options: Unpack[KrylovOptions],
) -> SingularTriplets:
    """Return the k largest singular triplets by block Golub–Kahan bidiagonalisation, without ever forming JᵀJ.

    Both bases are reorthogonalised in full, and restarted from their best vectors when they grow too large. What has
    not converged when the products are used up is returned too, marked so.

    Args:
        forward: v ↦ Jv, (inputs,) → (outputs,).
        backward: u ↦ Jᵀu.
        outputs: rows of J.
        inputs: columns of J.
        k: how many.
        generator: for the start vectors.
        dtype: of the vectors.
        device: of the vectors.
        chunk_size: how many vectors go through the products together.
        options: see `KrylovOptions`; `max_basis` holds on either side, `max_products` for J and for Jᵀ.

    Raises:
        ArgumentError: k beyond the smaller side.
        UnsupportedError: a product that is not finite.

    Source: Golub, Luk and Overton 1981, the block method; Baglama and Reichel 2005, thick restarts.

    Example:
        >>> J = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))[:2]
        >>> found = singular_triplets(lambda v: J @ v, lambda u: J.T @ u, 2, 3, 1, generator=torch.Generator())
        >>> round(float(found.values), 9), found.converged
        (3.0, tensor([True]))
    """
    chosen = Options.of(min(outputs, inputs), k, dtype, **options)
    process = _GolubKahan(forward, backward, (outputs, inputs), chosen.block, generator, chunk_size, dtype, device)
    solved = extreme(process, chosen)
    left, right = process.ritz(k)
    return SingularTriplets(process.values[:k], left, right, solved.residuals, solved.converged, solved.products)


class _GolubKahan:
    """JV = UB and JᵀU = VBᵀ + R, R in the span of the next block; B is formed by projection."""

    def __init__(
        self,
        forward: Matvec,
        backward: Matvec,
        shape: tuple[int, int],
        width: int,
        generator: torch.Generator,
        chunk: int | None,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.forward, self.backward, self.width = forward, backward, width
        self.generator, self.chunk, self.scale = generator, chunk, 0.0
        self.U = torch.zeros(shape[0], 0, dtype=dtype, device=device)
        self.V = torch.zeros(shape[1], 0, dtype=dtype, device=device)
        self.B = torch.zeros(0, 0, dtype=torch.float64, device=device)
        self.next = self._random()

    @property
    def columns(self) -> int:
        """How many vectors the larger basis holds."""
        return max(self.V.shape[1], self.U.shape[1])

    @property
    def closed(self) -> bool:
        """Whether the row space is exhausted."""
        return self.next.shape[1] == 0

    def _random(self) -> Tensor:
        drawn = gaussian((len(self.V), self.width), self.generator, torch.float64, self.V.device)
        return extend(self.V, drawn.to(self.V.dtype), 0.0, self.generator).added

    def _seen(self, image: Tensor) -> None:
        norms = torch.linalg.vector_norm(image, dim=0, dtype=torch.float64)
        self.scale = max(self.scale, float(norms.max()))

    def grow(self) -> int:
        """Multiply the next block by J, what is new of it by Jᵀ, and find the singular values of B."""
        width = self.next.shape[1]
        image = products(self.forward, self.next.T, self.chunk, len(self.U)).T
        self._seen(image)
        found = extend(self.U, image, self.scale, self.generator)
        self.V, self.U = torch.cat([self.V, self.next], 1), torch.cat([self.U, found.added], 1)
        below = torch.zeros(len(found.beyond), self.B.shape[1], dtype=torch.float64, device=self.B.device)
        self.B = torch.cat([torch.cat([self.B, found.inside], 1), torch.cat([below, found.beyond], 1)])
        P, self.values, Qt = torch.linalg.svd(self.B, full_matrices=False)
        self.P, self.Q = P, Qt.T
        added = found.added.shape[1]
        if added == 0:
            self.next, self.residuals = self.next[:, :0], torch.zeros_like(self.values)
            return width
        image = products(self.backward, found.added.T, self.chunk, len(self.V)).T
        self._seen(image)
        after = extend(self.V, image, self.scale, self.generator)
        self.residuals = torch.linalg.vector_norm(after.beyond @ P[-added:], dim=0)
        self.next = after.added
        return width

    def ritz(self, keep: int) -> tuple[Tensor, Tensor]:
        """Return the first left and right vectors."""
        return self.U @ self.P[:, :keep].to(self.U.dtype), self.V @ self.Q[:, :keep].to(self.V.dtype)

    def restart(self, keep: int, fresh: bool) -> None:
        """Keep the first triplets."""
        self.U, self.V = self.ritz(keep)
        self.B = torch.diag(self.values[:keep])
        if fresh:
            self.next = self._random()
