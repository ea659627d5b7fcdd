"""Plain networks x ← relu(W x): moments of the Jacobian over the draw of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pure.errors import ArgumentError

__all__ = ["plain_fourth_moment", "plain_second_moment"]


def plain_second_moment(widths: Sequence[int], variances: Sequence[float] | None = None) -> float:
    """Return E‖Ju‖² = Π n_l v_l / 2 of a plain ReLU network, for any unit u and any input: exact at every width.

    A row w of W and −w are equally likely and open opposite gates, so that half of E(w·u)² = v‖u‖² passes, however the
    gate depends on w. It needs independent, symmetric entries of one variance; symmetric biases change nothing.

    Args:
        widths: n_0, …, n_L; every layer is followed by a ReLU.
        variances: v_1, …, v_L of the weights; None is He's 2 / fan_in, which gives n_L / n_0. He's 2 / fan_out gives 1.

    Raises:
        ArgumentError: fewer than two widths, or another number of variances than layers.

    Source: Hanin 2018 (1801.03744).

    Example:
        >>> plain_second_moment([8, 16, 4]), plain_second_moment([8, 16, 4], [2 / 16, 2 / 4])
        (0.5, 1.0)
    """
    return math.prod(n * v / 2 for n, v in _layers(widths, variances))


def plain_fourth_moment(widths: Sequence[int], variances: Sequence[float] | None = None) -> float:
    """Return E‖Ju‖⁴ = (E‖Ju‖²)² Π (1 + 5/n_l) of a plain ReLU network with Gaussian weights: exact at every width.

    Given ‖u‖, a layer's output is a sum of n terms b g² with b a fair coin and g normal: E(Σ b g²)² is
    (n v / 2)² (1 + 5/n). The tails grow with depth over width: a mean over draws says little where Σ 5/n_l is above 1.

    Args:
        widths: n_0, …, n_L.
        variances: of the weights; None is 2 / fan_in.

    Raises:
        ArgumentError: fewer than two widths, or another number of variances than layers.

    Source: Hanin and Nica 2018 (1812.05994) for the growth with Σ 1/n_l; Hanin 2018 (1801.03744).

    Example:
        >>> plain_fourth_moment([10] * 3)
        2.25
    """
    spread = math.prod(1 + 5 / n for n in widths[1:])
    return plain_second_moment(widths, variances) ** 2 * spread


def _layers(widths: Sequence[int], variances: Sequence[float] | None) -> list[tuple[int, float]]:
    if len(widths) < 2 or min(widths) < 1:
        raise ArgumentError(f"widths={list(widths)}: expected n_0, …, n_L, at least two positive sizes")
    chosen = [2 / n for n in widths[:-1]] if variances is None else list(variances)
    if len(chosen) != len(widths) - 1:
        raise ArgumentError(f"{len(chosen)} variances for {len(widths) - 1} layers: expected one a layer")
    return list(zip(widths[1:], chosen, strict=True))
