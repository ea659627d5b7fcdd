"""The three stages of a Hessian product: the loss, its gradient's graph, and the products."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["NestedError", "Stages"]


class NestedError(Exception):
    """The loss itself takes a gradient, so that a third derivative is needed."""


class Stages:
    """Tells the nodes of a graph what their backward pass is run for.

    Args:
        leaves: the parameters. Their gradient's values are not read by a Hessian product, only its graph.
    """

    def __init__(self, leaves: Iterable[Tensor]) -> None:
        self._leaves = {id(leaf): leaf for leaf in leaves}  # holds them, so that an id stays its own
        self._now = "loss"

    def owns(self, *tensors: Tensor | None) -> bool:
        """Return whether tensors are parameters or views of them, without hooks that would read their gradient."""
        return all(tensor is None or self._owned(tensor) for tensor in tensors)

    def _owned(self, tensor: Tensor) -> bool:
        base = tensor._base if tensor._is_view() else tensor
        return id(base) in self._leaves and not tensor._backward_hooks

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
            raise NestedError
        return self._now == "gradient" and torch.is_grad_enabled()
