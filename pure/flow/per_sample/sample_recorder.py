"""Running a parameter's recognised uses on all samples at once, so that their inputs replace the parameter's gradient.

`SampleRecorder` runs while the loss is mapped over the samples. It gives linear maps, convolutions, normalisations and
lookups their parameters as constants, and keeps what they read. Whatever else a parameter does goes through the
parameter's own per-sample copy, whose gradient is then the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import _add_batch_dim, _unwrap_batched, pop_dynamic_layer_stack, push_dynamic_layer_stack
from torch.autograd.graph import Node

from pure.flow.per_sample.call_recorder import RECOGNISED, CallRecorder
from pure.flow.per_sample.weight_use import Call, WeightUse

__all__ = ["RecordedUse", "SampleRecorder", "TooLargeError"]


class TooLargeError(Exception):
    """Per-sample values of a parameter would exceed the budget; the samples have to be cut into chunks."""


@dataclass(eq=False)
class RecordedUse:
    """What is known of a use once it has run.

    Attributes:
        use: the call.
        inputs: (batch, …); None again once its gradient is known.
        version: of the inputs; another one later says that they were changed in place.
        node: the node of the graph that its output came from; a later change in place leaves it as it is.
        number: which of the node's outputs that is.
    """

    use: WeightUse
    inputs: Tensor | None
    version: int
    node: Node | None = field(repr=False)
    number: int


class _Start(torch.autograd.Function):
    """Runs a use whose inputs have no gradient, as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, x: Tensor, run: Any) -> Tensor:
        y: Tensor = run(x)
        return y.clone() if y._is_view() else y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None, None]:
        return None, None, None


class SampleRecorder(CallRecorder):
    """While it is active, inside the map over the samples, keeps each recognised use of a parameter.

    Args:
        copies: {dotted name: the per-sample copy that the loss sees}.
        leaves: {dotted name: the parameter itself, which has no gradient}.
        anchor: a tensor with a gradient, from which uses of inputs without one start.
        batch: how many samples there are.
        ghost: False to recognise nothing.
        room: how many values of one parameter's copies may be worked on.

    Raises:
        UnsupportedError: the loss runs batch normalisation by batch statistics.
        TooLargeError: a parameter with more values is used in another way.
    """

    def __init__(
        self,
        copies: Mapping[str, Tensor],
        leaves: Mapping[str, Tensor],
        anchor: Tensor,
        batch: int,
        *,
        ghost: bool = True,
        room: float = torch.inf,
    ) -> None:
        super().__init__(copies, leaves, recognised=RECOGNISED if ghost else {})
        self.found: list[RecordedUse] = []
        self._anchor = anchor
        self._batch = batch
        self._room = room

    def run(self, call: Call) -> Tensor:
        """Run a use on the samples' own tensors, below the map over them, where the graph is recorded."""
        use, level = call.use, self._level or 0
        values = self.parameters.value(use.weight), self.parameters.value(use.bias)
        x, axis = _unwrap_batched(call.input, level)
        mapping = pop_dynamic_layer_stack()
        try:
            x = x.expand(self._batch, *x.shape) if axis is None else x.movedim(axis, 0) if axis else x
            lead = x.shape[: x.ndim - use.rank]
            flat = x if len(lead) == 1 else x.reshape(-1, *x.shape[len(lead) :])
            if flat.requires_grad:
                y = use.run(flat, *values)
            else:
                y = _Start.apply(self._anchor, flat, partial(_with, use, values))
            if y._is_view():
                y = y.clone()  # what follows may work on it in place, which would cut a view out of the graph
            self.found.append(RecordedUse(use, x.detach(), x._version, y.grad_fn, y.output_nr))
            y = y if len(lead) == 1 else y.reshape(*lead, *y.shape[1:])
        finally:
            push_dynamic_layer_stack(mapping)
        mapped: Tensor = _add_batch_dim(y, 0, level)
        return mapped

    def passed(self, args: tuple[Any, ...], out: object) -> None:
        """Raise if a parameter's copies are worked on that take too much memory."""
        if self._room == torch.inf or not isinstance(out, Tensor) or self.origin(out) is not None:
            return
        for value in args:
            origin = self.origin(value)
            if origin is not None and self.parameters.leaves[origin.name].numel() > self._room:
                raise TooLargeError


def _with(use: WeightUse, values: tuple[Tensor | None, Tensor | None], x: Tensor) -> Tensor:
    return use.run(x, *values)
