"""The random networks that the laws speak of, as blocks: exact variances, no biases, Gaussian weights.

`theory.check` draws hundreds of each at once; `theory.predict` of a block must give back the law's closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from pure.block import Block
from pure.compose import Sequential
from pure.errors import ArgumentError
from pure.initializers import Initializer, Normal, Orthogonal
from pure.layers import Activation, Linear, RMSNorm
from pure.skips import Residual
from pure.skips.scaled.factors import Weighted
from pure.skips.scaled.norm_placement import pre_norm

__all__ = ["linear", "mixed", "plain", "pre_normed", "residual", "same_gates"]


def _linear(inputs: int, outputs: int, rule: Initializer) -> Linear:
    return Linear(inputs, outputs, bias=False, weight_init=rule)


def _gaussian(inputs: int, outputs: int, variance: float) -> Linear:
    return _linear(inputs, outputs, Normal(std=math.sqrt(variance)))


def _depth(depth: int) -> int:
    if depth < 1:
        raise ArgumentError(f"depth={depth}: expected at least 1")
    return depth


def plain(widths: Sequence[int], *, orthogonal: bool = False) -> Block:
    """Return layers x ← relu(W x) with W of variance 2/fan_in, or orthogonal times √2 (laws A, E, F).

    Args:
        widths: n_0, …, n_L.
        orthogonal: draw W by Haar's law.

    Raises:
        ArgumentError: fewer than two widths.

    Example:
        >>> plain([4, 5, 6]).out_shape((1, 4))
        (1, 6)
    """
    _depth(len(widths) - 1)
    layers: list[Block] = []
    for n_in, n_out in pairwise(widths):
        rule = Orthogonal(math.sqrt(2)) if orthogonal else Normal(std=math.sqrt(2 / n_in))
        layers += [_linear(n_in, n_out, rule), Activation("relu")]
    return Sequential(*layers)


def linear(width: int, depth: int) -> Block:
    """Return a product of square Gaussian matrices of variance 1/n (law E).

    Args:
        width: n.
        depth: L.

    Raises:
        ArgumentError: a depth below 1.

    Example:
        >>> linear(4, 2).out_shape((1, 4))
        (1, 4)
    """
    return Sequential(*[_gaussian(width, width, 1 / width)] * _depth(depth))


def _branch(width: int, branch_width: int, in_variance: float) -> Sequential:
    return Sequential(
        U=_gaussian(width, branch_width, in_variance),
        act=Activation("relu"),
        V=_gaussian(branch_width, width, 1 / width),
    )


def residual(width: int, branch_width: int, scales: Sequence[float]) -> Block:
    """Return block R, x ← x + α V relu(U x): U of variance 2/m, V of variance 1/n (laws B, C, D, F).

    Args:
        width: n.
        branch_width: m.
        scales: α of every block.

    Raises:
        ArgumentError: no blocks.

    Example:
        >>> residual(4, 8, [0.5, 0.5]).out_shape((1, 4))
        (1, 4)
    """
    _depth(len(scales))
    return Sequential(*[Residual(_branch(width, branch_width, 2 / branch_width), scale=scale) for scale in scales])


def mixed(width: int, branch_width: int, depth: int, carry_square: float) -> Block:
    """Return x ← γ₁ x + γ₂ V relu(U x) with γ₁² + γ₂² = 1: U of variance 1/m, V of variance 1/n (law I).

    Args:
        width: n.
        branch_width: m.
        depth: L.
        carry_square: γ₁², in 0 to 1.

    Raises:
        ArgumentError: a depth below 1, or γ₁² outside 0 to 1.

    Example:
        >>> mixed(4, 8, 2, 0.5).out_shape((1, 4))
        (1, 4)
    """
    if not 0 <= carry_square <= 1:
        raise ArgumentError(f"carry_square={carry_square}: expected 0 to 1")
    branch = _branch(width, branch_width, 1 / branch_width)
    block = Weighted(branch, carry=math.sqrt(carry_square), scale=math.sqrt(1 - carry_square))
    return Sequential(*[block] * _depth(depth))


def pre_normed(width: int, branch_width: int, depth: int) -> Block:
    """Return x ← x + V relu(U norm(x)) with RMSNorm: U of variance 2/m, V of variance 1/n (law H).

    Args:
        width: n.
        branch_width: m.
        depth: L.

    Raises:
        ArgumentError: a depth below 1.

    Example:
        >>> pre_normed(4, 8, 2).out_shape((1, 4))
        (1, 4)
    """
    branch = _branch(width, branch_width, 2 / branch_width)
    return Sequential(*[pre_norm(branch, RMSNorm(width, eps=1e-12, affine=False))] * _depth(depth))


def same_gates(width: int, depth: int, scale: float) -> Block:
    """Return x ← x + α W relu(x), W of variance 2/n: the negative control, for which law D fails.

    The ReLU acts on the stream, which hardly moves from block to block, so that all blocks share nearly the same gates
    and are not free of each other: at n = 300, L = 100, Lα² = 1, m₂/m₁² is about 3.5 and not 3.

    Args:
        width: n.
        depth: L.
        scale: α.

    Raises:
        ArgumentError: a depth below 1.

    Example:
        >>> same_gates(4, 2, 0.5).out_shape((1, 4))
        (1, 4)
    """
    branch = Sequential(act=Activation("relu"), W=_gaussian(width, width, 2 / width))
    return Sequential(*[Residual(branch, scale=scale)] * _depth(depth))
