"""Muon: momentum whose updates are made orthogonal, for weights that are matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError
from pure.optim.schedules import Rate
from pure.optim.selection import Where
from pure.optim.transformation import (
    GradientTransformation,
    Tree,
    chain,
    raise_unless_decay,
    raise_unless_nonnegative,
    recorded,
    zeros_like,
)
from pure.optim.transforms import add_decayed_weights, scale_by_learning_rate

__all__ = ["muon", "orthogonalize", "scale_by_muon"]

COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of X ← aX + b(XXᵀ)X + c(XXᵀ)²X: the steepest at 0 whose singular values stay between about 0.7 and 1.2."""


def orthogonalize(
    matrix: Tensor,
    *,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    steps: int = 5,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return about UVᵀ of a matrix USVᵀ, by Newton–Schulz iterations of degree 5.

    Args:
        matrix: (m, n), or a stack (…, m, n).
        coefficients: a, b and c of X ← aX + b(XXᵀ)X + c(XXᵀ)²X.
        steps: how many iterations.
        eps: the smallest Frobenius norm that is divided by.
        dtype: computed in; the matrix's own unless given. PyTorch's Muon takes torch.bfloat16.

    Returns:
        A tensor of the matrix's shape and dtype; singular values are 1 up to about 0.3.

    References:
        Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", section "Definition".
    """
    a, b, c = coefficients
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.to(dtype or matrix.dtype)
    x = x.mT if tall else x
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = _sum_with_product(x, _sum_with_product(gram, gram, gram, b, c), x, a, 1.0)
    return (x.mT if tall else x).to(matrix.dtype)


def _sum_with_product(start: Tensor, left: Tensor, right: Tensor, beta: float, alpha: float) -> Tensor:
    """Return beta · start + alpha · left @ right, rounded once, as `torch.optim.Muon` has it."""
    if start.ndim == 2:
        return torch.addmm(start, left, right, beta=beta, alpha=alpha)
    flat = (x.reshape(-1, *x.shape[-2:]) for x in (start, left, right))
    return torch.baddbmm(*flat, beta=beta, alpha=alpha).reshape(start.shape)


@recorded
def scale_by_muon(
    momentum: float = 0.95,
    nesterov: bool = True,
    *,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    steps: int = 5,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
    stacked: bool = False,
) -> GradientTransformation:
    """Return v ← momentum · v + (1 − momentum) · u made orthogonal, times √max(1, m/n); state {"velocity": tree}.

    Args:
        momentum: of the velocity, in [0, 1).
        nesterov: make momentum · v + (1 − momentum) · u orthogonal instead of v.
        coefficients: of the iteration, as for `orthogonalize`.
        steps: how many iterations.
        eps: the smallest norm that is divided by.
        dtype: of the iteration.
        stacked: leaves with more than two axes are stacks of matrices, as `Repeat` and `pure.stack` make them.

    Raises:
        ArgumentError: a leaf that is no matrix (when it is first used), or a momentum outside [0, 1).
    """
    raise_unless_decay(momentum=momentum)
    raise_unless_nonnegative(eps=eps)

    def init(params: Tree) -> dict[str, Tree]:
        for name, leaf in tree.flatten(params).items():
            if leaf.ndim != 2 and not (stacked and leaf.ndim > 2):
                raise ArgumentError(
                    f"muon: {name} has the shape {tuple(leaf.shape)}: expected a matrix; give other leaves another "
                    "transformation by optim.multi_transform, and stacks of matrices stacked=True"
                )
        return {"velocity": zeros_like(params)}

    def orthogonal(u: Tensor) -> Tensor:
        ratio = math.sqrt(max(1.0, u.shape[-2] / u.shape[-1]))
        return ratio * orthogonalize(u, coefficients=coefficients, steps=steps, eps=eps, dtype=dtype)

    def update(updates: Tree, state: dict[str, Tree], params: Tree) -> tuple[Tree, dict[str, Tree]]:
        velocity = tree.tree_map(lambda u, v: v + (1 - momentum) * (u - v), updates, state["velocity"])
        ahead = tree.tree_map(lambda u, v: u + momentum * (v - u), updates, velocity) if nesterov else velocity
        return tree.tree_map(orthogonal, ahead), {"velocity": velocity}

    return GradientTransformation(init, update)


def muon(
    learning_rate: Rate = 1e-3,
    *,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    steps: int = 5,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
    stacked: bool = False,
    mask: Where | None = None,
) -> GradientTransformation:
    """Return Muon as `torch.optim.Muon`, for trees whose leaves are matrices.

    PyTorch iterates in bfloat16 whatever the parameters are (`dtype=torch.bfloat16` does so here); this takes their
    dtype. Embeddings, heads, gains and biases want another optimiser, by `multi_transform`.

    Args:
        learning_rate: a number, a 0-d tensor, or a function of the step.
        weight_decay: per unit of learning rate.
        momentum: as for `scale_by_muon`.
        nesterov: as for `scale_by_muon`.
        coefficients: as for `orthogonalize`.
        steps: as for `orthogonalize`.
        eps: as for `orthogonalize`.
        dtype: as for `orthogonalize`.
        stacked: as for `scale_by_muon`.
        mask: which leaves decay, as for `add_decayed_weights`.

    Raises:
        ArgumentError: a leaf that is no matrix, or a number out of range.

    Example:
        >>> optimizer = muon(0.1, weight_decay=0.0)
        >>> params = {"weight": torch.eye(2)}
        >>> new, _ = optimizer.step({"weight": torch.eye(2)}, optimizer.init(params), params)
        >>> bool((new["weight"].diagonal() - 0.9).abs().max() < 0.03)
        True

    References:
        Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """
    made_orthogonal = scale_by_muon(
        momentum, nesterov, coefficients=coefficients, steps=steps, eps=eps, dtype=dtype, stacked=stacked
    )
    return chain(made_orthogonal, add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))
