"""The three stages of a Hessian product: the loss, its gradient's graph, and the products."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["NestedError", "Stages"]


class NestedError(RuntimeError):
    """The loss itself takes a gradient, so that a third derivative is needed."""


VIEWS = frozenset(
    f"{name}Backward{number}"
    for name in (
        *("Alias", "AsStrided", "Diagonal", "Expand", "Narrow", "Permute", "Select", "Slice"),
        *("Split", "SplitWithSizes", "Squeeze", "SwapDims", "T", "Transpose", "Unbind", "Unsqueeze", "UnsafeView"),
        *("View", "ReshapeAlias", "Mt", "Unfold", "Chunk"),
    )
    for number in range(4)
)
"""Nodes that pass a gradient on to the tensor that is viewed, as it is."""


class Stages:
    """Tells the nodes of a graph what their backward pass is run for.

    Args:
        leaves: the parameters. Their gradient's values are not read by a Hessian product, only its graph.

    Attributes:
        watched: whether the loss may have put a hook somewhere, which would read a gradient's values.
        nested: whether the loss has run a backward pass itself.
    """

    def __init__(self, leaves: Iterable[Tensor]) -> None:
        self._leaves = {id(leaf): leaf for leaf in leaves}  # holds them, so that an id stays its own
        self._now = "loss"
        self.watched = self.nested = False

    def owns(self, *tensors: Tensor | None) -> bool:
        """Return whether tensors are parameters, or views of them by PyTorch's own nodes."""
        return all(tensor is None or self._owned(tensor) for tensor in tensors)

    def _owned(self, tensor: Tensor) -> bool:
        if id(tensor) in self._leaves:
            return True
        if not tensor._is_view() or id(tensor._base) not in self._leaves:
            return False
        node = tensor.grad_fn
        while node is not None and node.name() in VIEWS:
            node = node.next_functions[0][0]
        return getattr(node, "variable", None) is tensor._base

    @contextmanager
    def gradient(self) -> Iterator[None]:
        """The stage in which the graph of the gradient is recorded; products follow."""
        self._now = "gradient"
        try:
            yield
        finally:
            self._now = "products"

    def recording(self) -> bool:
        """Return whether a backward pass has to record its own graph.

        Raises:
            NestedError: it is run by the loss itself.
        """
        if self._now == "loss":
            self.nested = True
            raise NestedError
        return self._now == "gradient" and torch.is_grad_enabled()
