"""Gradient energy by path length: energies through k branches, and the law of the path length."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pure.errors import ArgumentError

__all__ = ["mean_path_length", "path_energies", "path_share"]


def path_energies(gains: Sequence[float], carries: Sequence[float] | None = None) -> list[float]:
    """Return E‖J_k u‖² for k = 0 … L, J_k the part of the Jacobian through exactly k branches: exact at every width.

    Different paths are uncorrelated, because the last branch in which they differ has mean 0; so the energies are the
    coefficients of Π (γ_l² + a_l z). Divided by their sum they are the law of the path length: Binomial(L, a / (1 + a))
    for equal a, and Poisson-binomial else.

    Args:
        gains: a_l = α_l² g_l of every block.
        carries: γ_l² in front of every stream; None is 1.

    Raises:
        ArgumentError: another number of carries than of gains.

    Source: Veit et al. 2016 (1605.06431) for the binomial count of paths; the energies are derived here.

    Example:
        >>> path_energies([1.0, 1.0, 1.0])
        [1.0, 3.0, 3.0, 1.0]
    """
    kept = [1.0] * len(gains) if carries is None else list(carries)
    if len(kept) != len(gains):
        raise ArgumentError(f"{len(kept)} carries for {len(gains)} gains: expected one a block")
    energies = [1.0]
    for gain, carry in zip(gains, kept, strict=True):
        energies = [carry * low + gain * high for low, high in zip([*energies, 0.0], [0.0, *energies], strict=True)]
    return energies


def mean_path_length(gains: Sequence[float]) -> float:
    """Return Σ a_l / (1 + a_l), the mean number of branches that the gradient passes, weighted by energy.

    For α_l² = 1/l it is H_{L+1} − 1.

    Args:
        gains: a_l = α_l² g_l of every block.

    Example:
        >>> round(mean_path_length([1 / l for l in range(1, 4)]), 6), round(1 / 2 + 1 / 3 + 1 / 4, 6)
        (1.083333, 1.083333)
    """
    return sum(gain / (1 + gain) for gain in gains)


def path_share(blocks: int, shortest: int, longest: int) -> float:
    """Return the share of the 2^L paths that pass through `shortest` to `longest` branches, ends included.

    Args:
        blocks: L.
        shortest: fewest branches.
        longest: most branches.

    Source: Veit et al. 2016 (1605.06431): of 54 blocks, 5 to 17 branches (10 to 34 layers) are 0.45% of
        all paths.

    Example:
        >>> f"{path_share(54, 5, 17):.4%}"
        '0.4537%'
    """
    return sum(math.comb(blocks, k) for k in range(shortest, longest + 1)) / 2**blocks
