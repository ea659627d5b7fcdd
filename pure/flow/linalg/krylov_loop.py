"""The outer loop of block Krylov methods: when to go on, to restart, to look for missed copies, and to stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypedDict

import torch
from torch import Tensor

from pure.errors import ArgumentError

__all__ = ["KrylovOptions", "Options", "Process", "Solved", "extreme"]

DEFAULT_BLOCK_VECTORS = 16
MAX_SIZE_WITHOUT_RESTARTS = 1_024


class KrylovOptions(TypedDict, total=False):
    """Options of a block Krylov method, each of which may be left out.

    Attributes:
        tolerance: a value has converged when its residual is below this times the largest norm of a product met;
            default ε^(2/3) of the vectors' dtype. The value's own error is then of second order.
        block: vectors multiplied together; default min(k, 16). Below k the work doubles, because missed copies of
            multiple values are then looked for.
        max_basis: vectors kept at most; default all up to size 1,024, then 2k + 8 blocks. More need fewer products.
        max_products: default 1,000 + 50k.
    """

    tolerance: float | None
    block: int | None
    max_basis: int | None
    max_products: int | None


class Process(Protocol):
    """A Krylov space that grows by blocks, and the Ritz values in it, the wanted ones first."""

    scale: float
    values: Tensor
    residuals: Tensor

    @property
    def columns(self) -> int:
        """How many vectors are kept."""

    @property
    def closed(self) -> bool:
        """Whether nothing is left to multiply, so that the values are all there are."""

    def grow(self) -> int:
        """Multiply the next block, and return how many products that took."""

    def restart(self, keep: int, fresh: bool) -> None:
        """Keep the first `keep` Ritz pairs and the next block; with `fresh`, a random next block instead."""


@dataclass(frozen=True)
class Options:
    """How long to iterate, and on how many vectors.

    Attributes:
        k: how many values are wanted.
        block: vectors multiplied together.
        columns: vectors kept at most.
        restarts: whether that is less than the whole space.
        limit: products at most.
        tolerance: relative to the operator's scale.
    """

    k: int
    block: int
    columns: int
    restarts: bool
    limit: int
    tolerance: float

    @staticmethod
    def of(
        size: int,
        k: int,
        dtype: torch.dtype,
        *,
        tolerance: float | None = None,
        block: int | None = None,
        max_basis: int | None = None,
        max_products: int | None = None,
    ) -> Options:
        """Fill in the defaults.

        Raises:
            ArgumentError: a number that makes no sense.
        """
        if not 1 <= k <= size:
            raise ArgumentError(f"k={k} of an operator of size {size}: expected 1 to {size}")
        if block is not None and block < 1:
            raise ArgumentError(f"block={block}: expected at least 1")
        width = min(size, min(k, DEFAULT_BLOCK_VECTORS) if block is None else block)
        roomy = size if size <= MAX_SIZE_WITHOUT_RESTARTS else 2 * k + 8 * width
        columns = max(roomy if max_basis is None else max_basis, k + 2 * width)
        limit = 1_000 + 50 * k if max_products is None else max_products
        tolerance = torch.finfo(dtype).eps ** (2 / 3) if tolerance is None else tolerance
        return Options(k, width, columns, columns < size, limit, tolerance)


@dataclass(frozen=True, eq=False)
class Solved:
    """How the iteration ended: (k,) flags, (k,) residuals, and the number of products."""

    converged: Tensor
    residuals: Tensor
    products: int


def extreme(process: Process, options: Options) -> Solved:
    """Run the process until its first k values have converged, or the products are used up.

    A block of b vectors sees at most b copies of a multiple value, and a space that has closed hides the rest of the
    spectrum. So where b < k, what has converged is set aside and random vectors orthogonal to it are given as many
    products again; only values that this does not change are believed.
    """
    k, used, began, allowed = options.k, 0, 0, 0
    believed: Tensor | None = None
    floor = 0.0
    while True:
        used += process.grow()
        count = len(process.values)
        bound = options.tolerance * process.scale
        converged = process.residuals[:k] <= bound
        full = process.closed
        spent = used >= options.limit and count >= k
        done = count >= k and bool(converged.all())
        same = believed is not None and count >= k and bool(((process.values[:k] - believed).abs() <= bound).all())
        certain = options.block >= k or (done and same and used - began >= allowed)
        if full or spent or (done and certain):
            sure = converged & (torch.ones_like(converged) if certain else torch.zeros_like(converged))
            return Solved(sure | full, process.residuals[:k].clamp_min(0.0 if full else floor), used)
        if not options.restarts:
            continue
        if done and not same:
            believed, floor = process.values[:k].clone(), float(process.residuals[:k].max())
            allowed, began = used - began, used
            process.restart(k, fresh=True)
        elif process.columns + options.block > options.columns:
            process.restart(
                min(k + max(options.block, (options.columns - k) // 3), options.columns - options.block), fresh=False
            )
