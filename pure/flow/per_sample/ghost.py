"""Seeing a parameter's uses inside a per-sample loss: their inputs and outputs, in place of the parameter's gradient.

`Uses` runs while the loss is mapped over the samples. It gives linear maps, convolutions, normalisations and lookups
their parameters as constants, on all samples at once, and keeps what they read. Whatever else a parameter does goes
through the parameter's own per-sample copy, whose gradient is then the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import (
    _add_batch_dim,
    _unwrap_batched,
    maybe_current_level,
    pop_dynamic_layer_stack,
    push_dynamic_layer_stack,
)

from pure.flow.per_sample.linear_calls import RECOGNISED
from pure.flow.per_sample.recorded_call import Call, Constants
from pure.flow.per_sample.weight_uses import Use
from pure.flow.shared.input_checks import batch_norm_error
from pure.flow.shared.leaf_provenance import UNBIND, Provenance

__all__ = ["TooLargeError", "Uses"]

BATCH_NORMS = (F.batch_norm, torch.batch_norm)
TRANSPOSES: frozenset[Any] = frozenset(
    [
        *(Tensor.T.__get__, Tensor.mT.__get__, Tensor.t, torch.t, torch.transpose, Tensor.transpose),  # type: ignore[attr-defined]
        *(torch.swapaxes, Tensor.swapaxes, torch.permute, Tensor.permute),
    ]
)
FOLLOWED: frozenset[Any] = frozenset([*RECOGNISED, *TRANSPOSES, *UNBIND, *BATCH_NORMS])


class TooLargeError(Exception):
    """Per-sample values of a parameter would exceed the budget; the samples have to be cut into chunks."""


class _Start(torch.autograd.Function):
    """Runs a use whose inputs have no gradient, as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, x: Tensor, use: Use) -> Tensor:
        y = use.run(x)
        return y.clone() if y._is_view() else y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None, None]:
        return None, None, None


def kept(call: Call, anchor: Tensor, level: int, batch: int) -> Tensor:
    """Run a use on the samples' own tensors, below the map over them, where the graph is recorded.

    Args:
        call: what is run; its use keeps input and output.
        anchor: where it starts if its input has no gradient.
        level: of the map over the samples.
        batch: how many samples there are.
    """
    use = call.use
    x, axis = _unwrap_batched(call.input, level)
    mapping = pop_dynamic_layer_stack()
    try:
        x = x.expand(batch, *x.shape) if axis is None else x.movedim(axis, 0) if axis else x
        lead = x.shape[: x.ndim - use.rank]
        flat = x if len(lead) == 1 else x.reshape(-1, *x.shape[len(lead) :])
        y: Tensor = use.run(flat) if flat.requires_grad else _Start.apply(anchor, flat, use)
        if y._is_view():
            y = y.clone()  # what follows may work on it in place, which would cut a view out of the graph
        use.inputs, use.version = x.detach(), x._version
        use.node, use.number = y.grad_fn, y.output_nr
        y = y if len(lead) == 1 else y.reshape(*lead, *y.shape[1:])
    finally:
        push_dynamic_layer_stack(mapping)
    mapped: Tensor = _add_batch_dim(y, 0, level)
    return mapped


class Uses(Provenance):
    """While it is active, keeps each recognised use of a parameter.

    It is entered inside the map over the samples. An operation inside a further transform, or where no gradient is
    recorded, is left alone.

    Args:
        leaves: {dotted name: the per-sample copy that the loss sees}.
        constants: {dotted name: the parameter itself, which has no gradient}.
        anchor: a tensor with a gradient, from which uses of inputs without one start.
        batch: how many samples there are.
        active: False to intercept nothing.
        room: how many values of one parameter's copies may be worked on.

    Raises:
        UnsupportedError: the loss runs batch normalisation by batch statistics.
        TooLargeError: a parameter with more values is used in another way.
    """

    def __init__(
        self,
        leaves: Mapping[str, Tensor],
        constants: Mapping[str, Tensor],
        anchor: Tensor,
        batch: int,
        *,
        active: bool = True,
        room: float = torch.inf,
    ) -> None:
        super().__init__(leaves)
        self.found: list[Use] = []
        self._constants = Constants(self.origin, constants)
        self._anchor = anchor
        self._batch = batch
        self._active = active
        self._room = room
        self._level = maybe_current_level() or 0

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Intercept the recognised uses, refuse batch statistics, and run the rest."""
        if func not in FOLLOWED:
            out = func(*args, **kwargs) if kwargs else func(*args)
            if self._room < torch.inf and isinstance(out, Tensor):
                self._check_room(args, out)
            return out
        kwargs = kwargs or {}
        if func in BATCH_NORMS and (args[5] if len(args) > 5 else kwargs.get("training", False)):
            raise batch_norm_error()
        if not self._active or maybe_current_level() != self._level:
            return super().__torch_function__(func, types, args, kwargs)
        recognise = RECOGNISED.get(func)
        if recognise is not None and torch.is_grad_enabled():
            call = recognise(self._constants, *args, **kwargs)
            if call is not None:
                self.found.append(call.use)
                return call.finish(kept(call, self._anchor, self._level, self._batch))
        out = super().__torch_function__(func, types, args, kwargs)
        if func in TRANSPOSES:
            self._turn(func, args, kwargs, out)
        elif self._room < torch.inf and isinstance(out, Tensor):
            self._check_room(args, out)
        return out

    def _turn(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: object) -> None:
        """Follow the transpose of a matrix, and the transpose of that."""
        turned = self._constants.turned
        matrix = args[0] if args else None
        if isinstance(matrix, Tensor) and isinstance(out, Tensor) and matrix.ndim == 2:
            origin = self.origin(matrix)
            back = turned.get(id(matrix))
            swapped = func(torch.empty(2, 3, device="meta"), *args[1:], **kwargs).shape == (3, 2)
            if origin is not None and swapped:
                turned[id(out)] = out, origin
            elif back is not None and swapped:
                self._register(out, back[1])
            elif back is not None:
                turned[id(out)] = out, back[1]

    def _check_room(self, args: tuple[Any, ...], out: Tensor) -> None:
        if self.origin(out) is not None:
            return
        for value in args:
            origin = self.origin(value)
            if origin is not None and self._constants.leaves[origin.name].numel() > self._room:
                raise TooLargeError
