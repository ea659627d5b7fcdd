"""The kernels of infinitely wide networks: the Gaussian process at the start (NNGP) and the tangent kernel (NTK).

Every weight is written as √(variance / fan_in) · w with w standard normal, and derivatives are w.r.t. w: in this
parametrisation the limit exists. Kernels are for one output; the kernel summed over outputs, divided by their number,
tends to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pure.errors import ArgumentError, ShapeError

__all__ = ["WideKernels", "fully_connected", "residual"]

Activation = Literal["relu", "erf", "linear"]


@dataclass(frozen=True, eq=False)
class WideKernels:
    """Kernels between two batches, float64.

    Attributes:
        nngp: (N₁, N₂), covariance of one output over random weights.
        ntk: (N₁, N₂), tangent kernel of one output.
    """

    nngp: Tensor
    ntk: Tensor


@dataclass(frozen=True, eq=False)
class _Pair:
    """Kernels of one layer, with the variances of either batch by themselves."""

    cross: Tensor
    first: Tensor
    second: Tensor
    tangent: Tensor

    def map(self, scale: float, shift: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return scale · covariance + shift of the cross and the two own parts."""
        return scale * self.cross + shift, scale * self.first + shift, scale * self.second + shift


def moments(cross: Tensor, first: Tensor, second: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """Return E[φ(u)φ(v)] and E[φ'(u)φ'(v)] for centred normal u, v.

    Args:
        cross: (N₁, N₂), covariance of u and v.
        first: (N₁,), variance of u.
        second: (N₂,), variance of v.
        activation: "relu", "erf" or "linear".

    Raises:
        ArgumentError: an unknown activation.

    Source: Cho and Saul 2009, equations 6 to 8, for relu; Williams 1997, equation 11, for erf.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> moments(one[None], one, one, "relu")
        (tensor([[0.5000]], dtype=torch.float64), tensor([[0.5000]], dtype=torch.float64))
    """
    a, b = first[:, None], second[None, :]
    if activation == "linear":
        return cross, torch.ones_like(cross)
    if activation == "relu":
        size = (a * b).sqrt()
        cosine = torch.where(size > 0, cross / torch.where(size > 0, size, 1.0), 0.0).clamp(-1, 1)
        angle = cosine.arccos()
        value = size * ((1 - cosine.square()).sqrt() + (math.pi - angle) * cosine) / (2 * math.pi)
        return value, (math.pi - angle) / (2 * math.pi)
    if activation == "erf":
        both = (1 + 2 * a) * (1 + 2 * b)
        value = (2 / math.pi) * (2 * cross / both.sqrt()).clamp(-1, 1).arcsin()
        return value, (4 / math.pi) / (both - 4 * cross.square()).sqrt()
    raise ArgumentError(f"activation={activation!r} of infinite width: expected 'relu', 'erf' or 'linear'")


def _own(variance: Tensor, activation: Activation) -> Tensor:
    """Return E[φ(u)²] for each variance."""
    if activation == "linear":
        return variance
    if activation == "relu":
        return variance / 2
    return (2 / math.pi) * (2 * variance / (1 + 2 * variance)).arcsin()


def _inputs(x1: Tensor, x2: Tensor | None) -> _Pair:
    """Return the inner products of the inputs over their size."""
    x2 = x1 if x2 is None else x2
    if x1.ndim != 2 or x2.ndim != 2 or x1.shape[1] != x2.shape[1]:
        raise ShapeError(f"inputs {tuple(x1.shape)} and {tuple(x2.shape)}: expected (N₁, features) and (N₂, features)")
    x1, x2 = x1.double(), x2.double()
    size = x1.shape[1]
    cross = x1 @ x2.T / size
    return _Pair(cross, x1.square().sum(1) / size, x2.square().sum(1) / size, torch.zeros_like(cross))


def _linear(pair: _Pair, weight: float, bias: float) -> _Pair:
    """Return the kernels after a random linear map: its own weights and biases add to the tangent kernel."""
    cross, first, second = pair.map(weight, bias)
    return _Pair(cross, first, second, cross + weight * pair.tangent)


def _activated(pair: _Pair, activation: Activation) -> _Pair:
    """Return the kernels after an activation, one value at a time."""
    value, slope = moments(pair.cross, pair.first, pair.second, activation)
    return _Pair(value, _own(pair.first, activation), _own(pair.second, activation), slope * pair.tangent)


def fully_connected(
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    depth: int,
    activation: Activation = "relu",
    weight_variance: float = 2.0,
    bias_variance: float = 0.0,
) -> WideKernels:
    """Return the kernels of a fully connected network of `depth` hidden layers and a linear head.

    z₀ = W₀x + b₀, z_{l+1} = W_{l+1} φ(z_l) + b_{l+1}, W = √(weight_variance / fan_in) w, b = √bias_variance β.

    Args:
        x1: (N₁, features).
        x2: (N₂, features), by default x1.
        depth: hidden layers; 0 is a linear map.
        activation: "relu", "erf" or "linear".
        weight_variance: variance of a weight times its fan-in.
        bias_variance: variance of a bias.

    Raises:
        ShapeError: inputs that do not fit together.
        ArgumentError: a negative depth or variance, or an unknown activation.

    Source: Lee et al. 2018 (1711.00165) for the NNGP; Jacot et al. 2018 (1806.07572), theorem 1, for the NTK.

    Example:
        >>> x = torch.eye(2)
        >>> found = fully_connected(x, depth=1)
        >>> found.nngp.diagonal(), found.ntk.diagonal()
        (tensor([1., 1.], dtype=torch.float64), tensor([2., 2.], dtype=torch.float64))
    """
    _check(depth, activation, weight_variance, bias_variance)
    pair = _linear(_inputs(x1, x2), weight_variance, bias_variance)
    for _ in range(depth):
        pair = _linear(_activated(pair, activation), weight_variance, bias_variance)
    return WideKernels(pair.cross, pair.tangent)


def residual(
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    depth: int,
    scale: float = 1.0,
    activation: Activation = "relu",
    hidden_variance: float = 2.0,
    branch_variance: float = 1.0,
    embed_variance: float = 1.0,
    head_variance: float = 1.0,
) -> WideKernels:
    """Return the kernels of a residual network without biases: embedding, blocks h ← h + scale · V φ(U h), head.

    With its defaults a block is law B's: the variance of the stream grows by 1 + scale² a block.

    Args:
        x1: (N₁, features).
        x2: (N₂, features), by default x1.
        depth: how many blocks.
        scale: α in front of each branch.
        activation: "relu", "erf" or "linear".
        hidden_variance: variance of U's entries times its fan-in.
        branch_variance: of V's.
        embed_variance: of the embedding's.
        head_variance: of the head's.

    Raises:
        ShapeError: inputs that do not fit together.
        ArgumentError: a negative depth or variance, or an unknown activation.

    Source: Huang et al. 2020 (2002.06262) for the tangent kernel of residual networks.

    Example:
        >>> found = residual(torch.eye(2) * 2**0.5, depth=3, scale=0.5)
        >>> torch.allclose(found.nngp.diagonal(), torch.full((2,), 1.25**3, dtype=torch.float64))
        True
    """
    _check(depth, activation, hidden_variance, branch_variance, embed_variance, head_variance)
    stream = _linear(_inputs(x1, x2), embed_variance, 0.0)
    for _ in range(depth):
        branch = _linear(_activated(_linear(stream, hidden_variance, 0.0), activation), branch_variance, 0.0)
        stream = _Pair(
            stream.cross + scale**2 * branch.cross,
            stream.first + scale**2 * branch.first,
            stream.second + scale**2 * branch.second,
            stream.tangent + scale**2 * branch.tangent,
        )
    head = _linear(stream, head_variance, 0.0)
    return WideKernels(head.cross, head.tangent)


def _check(depth: int, activation: str, *variances: float) -> None:
    if depth < 0 or min(variances) < 0:
        raise ArgumentError(f"depth={depth}, variances={variances}: expected 0 or more")
    if activation not in ("relu", "erf", "linear"):
        raise ArgumentError(f"activation={activation!r} of infinite width: expected 'relu', 'erf' or 'linear'")
