"""Unstructured pruning: masks of 0 and 1 with the shapes of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError
from pure.tree import Tree
from pure_export_shared import HtmlText

__all__ = ["Sparsity", "apply_masks", "magnitude_masks", "sparsity"]

Where = str | Sequence[str] | Callable[[str, Any], bool]


def magnitude_masks(
    params: Tree, amount: float, *, scope: Literal["global", "leaf"] = "global", where: Where | None = None
) -> Tree:
    """Return masks that are 0 at the round(amount · count) smallest |values| and 1 elsewhere.

    Among equal values the first in tree order are masked first. A masked function is
    `lambda params: f(apply_masks(params, masks))`; its gradients are masked likewise.

    Args:
        params: nested dicts of tensors.
        amount: the fraction of the values that becomes 0, in [0, 1].
        scope: "global" ranks the chosen leaves together, "leaf" each by itself.
        where: the leaves to prune, by glob patterns over dotted names or a function of name and leaf; None takes those
            of two axes or more, which leaves out biases and gains. Other leaves get masks of ones.

    Raises:
        ArgumentError: an amount outside [0, 1], or an unknown scope.
        TreeError: a pattern that matches no leaf.

    Source: Han et al. 2015 (1506.02626), section 3.

    Example:
        >>> masks = magnitude_masks({"fc": {"weight": torch.tensor([[0.1, -3.0], [2.0, -0.2]])}}, 0.5)
        >>> masks["fc"]["weight"]
        tensor([[0., 1.],
                [1., 0.]])
    """
    if not 0 <= amount <= 1:
        raise ArgumentError(f"magnitude_masks amount={amount}: expected the part that becomes 0, in [0, 1]")
    if scope not in ("global", "leaf"):
        raise ArgumentError(f"magnitude_masks scope={scope!r}: expected 'global' or 'leaf'")
    chosen, _ = tree.partition(params, _matrices if where is None else where)
    flat = {name: leaf.detach().abs().reshape(-1) for name, leaf in tree.flatten(chosen).items()}
    if not flat:
        return tree.tree_map(torch.ones_like, params)
    if scope == "global":
        wide = torch.promote_types(torch.float32, next(iter(flat.values())).dtype)
        kept = _kept(torch.cat([values.to(wide) for values in flat.values()]), amount)
        parts = kept.split([values.numel() for values in flat.values()])
    else:
        parts = tuple(_kept(values, amount) for values in flat.values())
    masks = dict(zip(flat, parts, strict=True))
    return tree.unflatten(
        {
            name: masks[name].reshape(leaf.shape).to(leaf.dtype) if name in masks else torch.ones_like(leaf)
            for name, leaf in tree.flatten(params).items()
        }
    )


def _matrices(name: str, leaf: Tensor) -> bool:
    return leaf.ndim >= 2


def _kept(values: Tensor, amount: float) -> Tensor:
    """Return 1 for every value but the smallest ones."""
    cut = int(amount * values.numel() + 0.5)
    order = torch.argsort(values, stable=True)
    return torch.ones_like(values).scatter(0, order[:cut], 0.0)


def apply_masks(params: Tree, masks: Tree) -> Tree:
    """Return params ⊙ masks, so that the gradient with respect to the params is masked too.

    Args:
        params: a tree of tensors.
        masks: a tree of the same structure.

    Raises:
        TreeError: the trees differ in names or shapes.

    Example:
        >>> apply_masks({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([0.0, 1.0])})
        {'w': tensor([0., 2.])}
    """
    tree.check(masks, params, what="masks")
    factors = tree.flatten(masks)
    return tree.unflatten({name: leaf * factors[name].to(leaf.dtype) for name, leaf in tree.flatten(params).items()})


@dataclass(frozen=True)
class Sparsity(HtmlText):
    """How much of each leaf is 0.

    Attributes:
        zeros: {dotted name: number of zeros}.
        counts: {dotted name: number of values}.
    """

    zeros: Mapping[str, int]
    counts: Mapping[str, int]

    @property
    def total(self) -> float:
        """The fraction of all values that is 0."""
        return sum(self.zeros.values()) / max(sum(self.counts.values()), 1)

    def __getitem__(self, name: str) -> float:
        """Return the fraction of a leaf that is 0."""
        return self.zeros[name] / max(self.counts[name], 1)

    def __str__(self) -> str:
        width = max([len(name) for name in self.counts] + [5])
        lines = [
            f"{name:<{width}}  {self.zeros[name]:>9,} of {n:>9,}  {self[name]:7.2%}" for name, n in self.counts.items()
        ]
        whole = f"{sum(self.zeros.values()):>9,} of {sum(self.counts.values()):>9,}  {self.total:7.2%}"
        return "\n".join([*lines, f"{'total':<{width}}  {whole}"])

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain data."""
        leaves = {name: {"zeros": self.zeros[name], "count": count} for name, count in self.counts.items()}
        return {"total": self.total, "leaves": leaves}


def sparsity(params: Tree) -> Sparsity:
    """Return how many values of each leaf are exactly 0; for masks as well as for parameters.

    Example:
        >>> report = sparsity({"w": torch.tensor([0.0, 1.0, 0.0, 2.0])})
        >>> report.total, report["w"]
        (0.5, 0.5)
    """
    flat = tree.flatten(params)
    zeros = {name: int((leaf == 0).sum()) for name, leaf in flat.items()}
    return Sparsity(zeros, {name: leaf.numel() for name, leaf in flat.items()})
