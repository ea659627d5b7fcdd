"""LSTM, GRU and RNN layers from elementary operations, for transforms and files; PyTorch's kernels lack rules there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pure.scan_loop import scan

__all__ = ["CELLS", "recurrence"]

Cell = Callable[[tuple[Tensor, ...], Tensor, "Projection"], tuple[Tensor, ...]]
"""(state, W x + b of one step, the product with the hidden state) → new state; its first entry is the output."""


class Projection:
    """The weights that a cell applies to its hidden state.

    Args:
        weight: (gates · hidden, output), W_hh.
        bias: (gates · hidden,), b_hh, or None.
        output: (output, hidden), W_hr of an LSTM with `proj_size`, or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, output: Tensor | None) -> None:
        self.weight, self.bias, self.output = weight, bias, output

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return W_hh h + b_hh."""
        return F.linear(hidden, self.weight, self.bias)


def _lstm(state: tuple[Tensor, ...], given: Tensor, product: Projection) -> tuple[Tensor, ...]:
    hidden, memory = state
    entry, forget, new, exit_ = (given + product(hidden)).chunk(4, -1)
    memory = forget.sigmoid() * memory + entry.sigmoid() * new.tanh()
    hidden = exit_.sigmoid() * memory.tanh()
    return (hidden if product.output is None else F.linear(hidden, product.output)), memory


def _gru(state: tuple[Tensor, ...], given: Tensor, product: Projection) -> tuple[Tensor, ...]:
    (hidden,) = state
    reset_x, update_x, new_x = given.chunk(3, -1)
    reset_h, update_h, new_h = product(hidden).chunk(3, -1)
    update = (update_x + update_h).sigmoid()
    new = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
    return (new + update * (hidden - new),)


def _rnn_tanh(state: tuple[Tensor, ...], given: Tensor, product: Projection) -> tuple[Tensor, ...]:
    return ((given + product(state[0])).tanh(),)


def _rnn_relu(state: tuple[Tensor, ...], given: Tensor, product: Projection) -> tuple[Tensor, ...]:
    return ((given + product(state[0])).relu(),)


CELLS: dict[str, Cell] = {"lstm": _lstm, "gru": _gru, "rnn_tanh": _rnn_tanh, "rnn_relu": _rnn_relu}
"""{name of PyTorch's function: one step of it}."""


def _one_way(
    cell: Cell, x: Tensor, state: tuple[Tensor, ...], weights: Sequence[Tensor], biased: bool, backwards: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the outputs (length, batch, output) and the last state of one layer in one direction."""
    input_bias, hidden_bias = (weights[2], weights[3]) if biased else (None, None)
    projected = len(weights) in (3, 5)
    product = Projection(weights[1], hidden_bias, weights[-1] if projected else None)
    given = F.linear(x, weights[0], input_bias)

    def step(state: tuple[Tensor, ...], given: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        new = cell(state, given, product)
        return new, new[0]

    last, outputs = scan(step, state, given.flip(0) if backwards else given)
    return (outputs.flip(0) if backwards else outputs), last


def recurrence(
    name: str,
    x: Tensor,
    states: tuple[Tensor, ...],
    weights: Sequence[Tensor],
    biased: bool,
    layers: int,
    both: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """Return what `torch.lstm`, `torch.gru`, `torch.rnn_tanh` or `torch.rnn_relu` does without dropout.

    Args:
        name: the function's name.
        x: (length, batch, features), or (batch, length, features) with `batch_first`.
        states: h, and c of an LSTM, each (layers · directions, batch, size).
        weights: all layers' and directions', in PyTorch's order.
        biased: whether there are biases among them.
        layers: the number of layers.
        both: whether each layer runs in both directions.
        batch_first: whether the batch is the first axis of `x` and of the output.

    Returns:
        the outputs of the last layer, then the last states.
    """
    directions = 2 if both else 1
    each = len(weights) // (layers * directions)
    if batch_first:
        x = x.transpose(0, 1)
    ends: list[tuple[Tensor, ...]] = []
    for layer in range(layers):
        found = []
        for direction in range(directions):
            index = layer * directions + direction
            start = tuple(state[index] for state in states)
            own = weights[index * each : (index + 1) * each]
            outputs, last = _one_way(CELLS[name], x, start, own, biased, direction == 1)
            found.append(outputs)
            ends.append(last)
        x = torch.cat(found, -1) if both else found[0]
    lasts: Any = (torch.stack(parts) for parts in zip(*ends, strict=True))
    return (x.transpose(0, 1) if batch_first else x, *lasts)
