"""Rows of a table by integer index: `F.embedding`, `table[index]` and `torch.index_select`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.flow.per_sample.outer_products import row_norms
from pure.flow.per_sample.weight_use import Call, Parameters, WeightUse
from pure.layers.alignment import widen

__all__ = ["LOOKUPS", "Lookup", "lookup_norm"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Lookup(WeightUse):
    """Rows of a table by integer index.

    Attributes:
        padding: the index whose row has no gradient.
    """

    padding: int | None = None

    def rows(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return the indices (batch, time) from 0 up, and the gradients (batch, time, values), 0 where padded."""
        index = x.reshape(len(x), -1).long() % self.shape[0]
        signals = widen(g.reshape(len(x), index.shape[1], -1))
        if self.padding is not None:
            signals = signals.masked_fill((index == self.padding)[..., None], 0)
        return index, signals

    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """Return the sums of the gradients that belong to each row of the table."""
        index, signals = self.rows(x, g)
        keys = index + torch.arange(len(x), device=index.device)[:, None] * self.shape[0]
        whole = signals.new_zeros(len(x) * self.shape[0], signals.shape[2])
        return whole.index_add_(0, keys.flatten(), signals.flatten(0, 1)).reshape(len(x), *self.shape)

    def norm(self, x: Tensor, g: Tensor, budget: float) -> Tensor:
        """Return its norm from the rows that were looked up alone."""
        return lookup_norm(*self.rows(x, g))


def lookup_norm(index: Tensor, signals: Tensor) -> Tensor:
    """Return ‖Σ_t e(index_t) ⊗ g_t‖ of (batch, time) and (batch, time, values): gradients of one row add up first."""
    batch = len(index)
    owner = torch.arange(batch, device=index.device)[:, None]
    count = int(index.max()) + 1 if index.numel() else 1
    keys, place = torch.unique((index + owner * count).flatten(), return_inverse=True)
    sums = signals.new_zeros(len(keys), signals.shape[2]).index_add_(0, place, signals.flatten(0, 1))
    norms = row_norms(sums)
    sample = keys // count
    largest = norms.new_zeros(batch).scatter_reduce_(0, sample, norms, "amax")
    scale = torch.where(largest > 0, largest, 1.0)
    squares = norms.new_zeros(batch).index_add_(0, sample, (norms / scale[sample]).square())
    return squares.sqrt() * scale


def _lookup(parameters: Parameters, index: Tensor, table: Tensor, padding: int | None) -> Call | None:
    """Rows of a table by integer index."""
    origin = parameters.origin(table)
    if origin is None or table.ndim == 0 or index.dtype not in (torch.int64, torch.int32):
        return None

    def run(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        assert weight is not None
        return weight[x]

    shape = tuple(table.shape)
    return Call(Lookup(weight=origin, bias=None, shape=shape, run=run, rank=0, channels=-1, padding=padding), index)


def _embedding(
    parameters: Parameters,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Call | None:
    """F.embedding, where nothing but the lookup happens."""
    if max_norm is not None or scale_grad_by_freq or sparse:
        return None
    padding = padding_idx + len(weight) if padding_idx is not None and padding_idx < 0 else padding_idx
    return _lookup(parameters, input, weight, padding)


def _indexed(parameters: Parameters, table: Tensor, index: object) -> Call | None:
    """table[index] with one tensor of integers."""
    return _lookup(parameters, index, table, None) if isinstance(index, Tensor) else None


def _index_select(parameters: Parameters, table: Tensor, dim: int, index: Tensor) -> Call | None:
    """torch.index_select along axis 0."""
    return _lookup(parameters, index, table, None) if dim == 0 and index.ndim == 1 else None


LOOKUPS: dict[Any, Callable[..., Call | None]] = {
    F.embedding: _embedding,
    Tensor.__getitem__: _indexed,
    **dict.fromkeys((torch.index_select, Tensor.index_select), _index_select),
}
"""Function → what reads its arguments; None from it means that this use is not known."""
