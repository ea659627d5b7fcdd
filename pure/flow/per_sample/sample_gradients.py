"""Per-sample gradients w.r.t. chosen leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from pure import tree
from pure.errors import ArgumentError, TreeError, nearest
from pure.flow.per_sample.sample_pass import Pass, cut
from pure.flow.shared.input_checks import batch_size, check_outermost, finite, named_leaves

__all__ = ["per_sample_gradients"]


def per_sample_gradients(
    loss: Callable[..., Any],
    params: tree.Tree,
    *batch: tree.Tree,
    leaves: Iterable[str] | Callable[[str], bool] | None = None,
    chunk_size: int | None = None,
    budget_mib: float = 256.0,
) -> dict[str, Tensor]:
    """Return ∂loss_b/∂leaf for every sample b and the chosen leaves: {dotted leaf: (batch, *leaf.shape)}.

    The other leaves are constants: their gradients are neither formed nor kept. Beside the result, the memory is that
    of one chunk's activations, and of its gradients.

    Args:
        loss: `loss(params, *sample)` is ONE sample's scalar loss, as for `per_sample_norms`.
        params: any tree of floating-point tensors.
        batch: trees of tensors, batch on axis 0.
        leaves: dotted names, or a predicate of them; None for all.
        chunk_size: samples to run together; by default as many as have gradients within the budget.
        budget_mib: memory for one chunk's gradients in MiB; the result itself takes what it takes.

    Raises:
        TreeError: a name that is no leaf.
        ArgumentError: `leaves` is one string; no batch, or a leaf of it that is no tensor.
        UnsupportedError: batch normalisation by batch statistics, which couples the samples; a loss that draws random
            numbers, branches on values or works in place; a loss that is NaN or infinite.
        ShapeError: one sample's loss is not a scalar, or the batch's leaves disagree in size.
        DtypeError: integer parameters.

    Source: Goodfellow 2015 (1510.01799): a sample's gradient w.r.t. a weight matrix is an outer product.

    Example:
        >>> import torch
        >>> from pure.layers import Linear
        >>> params = {"weight": torch.eye(2), "bias": torch.zeros(2)}
        >>> loss = lambda p, x: Linear(2, 2)(p, x[None]).sum()
        >>> per_sample_gradients(loss, params, torch.tensor([[3.0, 4.0], [1.0, 0.0]]), leaves=["weight"])
        {'weight': tensor([[[3., 4.],
                 [3., 4.]],
        <BLANKLINE>
                [[1., 0.],
                 [1., 0.]]])}
    """
    check_outermost("per_sample_gradients")
    known = named_leaves(loss, params)
    chosen = _chosen(leaves, known)
    samples = batch_size(batch)
    if chunk_size is not None and chunk_size < 1:
        raise ArgumentError(f"chunk_size={chunk_size}: expected at least 1")
    each = sum(known[name].numel() * known[name].element_size() for name in chosen)
    budget = budget_mib * 2**20
    size = min(samples, chunk_size or max(1, math.floor(budget / max(1, each))))
    pass_ = Pass(loss, known, tree.tree_flatten(params)[1], True, budget, frozenset(chosen))
    losses, found = pass_.gradients(cut(batch, 0, size))
    finite(losses)
    if size == samples:
        return found
    whole = {name: gradient.new_empty(samples, *gradient.shape[1:]) for name, gradient in found.items()}
    for start in range(0, samples, size):
        if start:
            losses, found = pass_.gradients(cut(batch, start, size))
            finite(losses)
        for name in chosen:
            whole[name][start : start + size] = found.pop(name)
    return whole


def _chosen(leaves: Iterable[str] | Callable[[str], bool] | None, known: dict[str, Tensor]) -> list[str]:
    """Return the chosen leaves in the order of the parameters.

    Raises:
        TreeError: a name that is no leaf.
        ArgumentError: one string.
    """
    if leaves is None:
        return list(known)
    if callable(leaves):
        return [name for name in known if leaves(name)]
    if isinstance(leaves, str):
        raise ArgumentError(f"leaves={leaves!r}: expected names in a list, as [{leaves!r}], or a predicate of a name")
    names = list(leaves)
    for name in names:
        if name not in known:
            raise TreeError(f"leaves: {name!r} is no leaf of the parameters{nearest(name, known)}")
    return [name for name in known if name in names]
