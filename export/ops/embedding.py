"""Rows of a matrix by number, alone or reduced over bags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import onnx_ir as ir
import torch
from torch._C import DispatchKey
from torch.fx import Node

from export.graph.builder import Builder, Lowering
from export.ops.shared.kernels import fold, mapped_kernel, mapped_size, with_mapped_axis

__all__ = ["BATCHING", "COMPOSITES", "DECOMPOSITIONS", "LOWERINGS"]

aten: Any = torch.ops.aten


def embedding(g: Builder, node: Node, weight: Any, index: Any, *_: Any) -> ir.Value:
    """Return rows of a matrix."""
    return g.op("Gather", g.tensor(weight), g.tensor(index), axis=0)


def _bags(indices: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Return the bag that each index belongs to."""
    places = torch.arange(indices.shape[0], device=indices.device)
    return (offsets.unsqueeze(0) <= places.unsqueeze(1)).sum(1) - 1


def _embedding_bag(
    weight: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: torch.Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> Any:
    """Sum (mode 0), average (mode 1) or take the maximum (mode 2) of the rows of each bag; an empty one gives zeros."""
    starts = offsets[:-1] if include_last_offset else offsets
    bag = _bags(indices, starts)
    counted = (indices != padding_idx).to(torch.int64)
    sizes = torch.zeros_like(starts).index_add(0, bag, counted.to(starts.dtype))
    if mode == 2:
        shape = [starts.shape[0], weight.shape[1]]
        places = torch.where(
            counted > 0, bag, torch.full_like(bag, starts.shape[0])
        )  # what is padding goes to one more
        lowest = weight.new_full([shape[0] + 1, shape[1]], -torch.inf)
        largest = lowest.scatter_reduce(0, places.unsqueeze(1).expand(-1, shape[1]), weight[indices], "amax")
        largest = torch.where((sizes > 0).unsqueeze(1), largest[:-1], torch.zeros_like(largest[:-1]))
        return largest, bag.to(indices.dtype), sizes, torch.zeros_like(starts)
    rows = weight[indices] * counted.to(weight.dtype).unsqueeze(1)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    total = weight.new_zeros([starts.shape[0], weight.shape[1]]).index_add(0, bag, rows)
    if mode == 1:
        total = total / sizes.clamp(min=1).to(weight.dtype).unsqueeze(1)
    return total, bag.to(indices.dtype), sizes, torch.zeros_like(starts)


def _bags_composite(
    weight: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: torch.Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """Compute `aten.embedding_bag` from operators that every transform takes; PyTorch's has no rule of `vmap`."""
    padded = -1 if padding_idx is None else padding_idx % weight.shape[0]
    if scale_grad_by_freq:
        op = aten.embedding_bag.padding_idx
        settings = (scale_grad_by_freq, mode, sparse, per_sample_weights, include_last_offset, padding_idx)
        return op._op_dk(DispatchKey.CompositeImplicitAutograd, weight, indices, offsets, *settings)
    return _embedding_bag(weight, indices, offsets, False, mode, False, per_sample_weights, include_last_offset, padded)


def _embedding_bag_backward(
    grad: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    offset2bag: torch.Tensor,
    bag_size: torch.Tensor,
    maximum_indices: torch.Tensor,
    num_weights: Any,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool = False,
    per_sample_weights: torch.Tensor | None = None,
    padding_idx: int = -1,
) -> Any:
    """Add the gradient of each bag to the rows in it."""
    if mode == 2:
        return NotImplemented
    rows = grad[offset2bag] * (indices != padding_idx).to(grad.dtype).unsqueeze(1)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    if mode == 1:
        rows = rows / bag_size[offset2bag].clamp(min=1).to(grad.dtype).unsqueeze(1)
    if scale_grad_by_freq:
        often = grad.new_zeros([num_weights]).index_add(0, indices, torch.ones_like(indices, dtype=grad.dtype))
        rows = rows / often[indices].unsqueeze(1)
    return grad.new_zeros([num_weights, grad.shape[1]]).index_add(0, indices, rows)


def _embedding_batched(
    mapped: Sequence[bool], weight: torch.Tensor, index: torch.Tensor, *settings: Any
) -> torch.Tensor:
    """Compute `aten.embedding` under `vmap`; several matrices are stacked to one."""
    op = aten.embedding.default
    if not mapped[0]:
        return cast(torch.Tensor, op(weight, index, *settings))
    if not mapped[1]:
        rows = weight.index_select(1, index.reshape(-1))
        return rows.reshape(weight.shape[0], *index.shape, weight.shape[2])
    return cast(torch.Tensor, op(fold(weight), _in_stack(index, weight.shape[1])))


def _in_stack(index: torch.Tensor, rows: Any) -> torch.Tensor:
    """Shift row numbers, mapped by their first axis, to a stack of matrices of `rows` rows each."""
    offsets = torch.arange(index.shape[0], device=index.device, dtype=index.dtype) * rows
    return index + offsets.reshape(-1, *[1] * (index.dim() - 1))


def _embedding_backward_batched(
    mapped: Sequence[bool],
    grad: torch.Tensor,
    index: torch.Tensor,
    rows: Any,
    padding: Any,
    by_frequency: bool,
) -> torch.Tensor:
    """Compute `aten.embedding_dense_backward` under `vmap`, on a stack of matrices."""
    size = mapped_size(mapped, (grad, index, rows, padding, by_frequency))
    grad, index = with_mapped_axis(grad, mapped[0], size), with_mapped_axis(index, mapped[1], size)
    grad = torch.where((index == padding).unsqueeze(-1), torch.zeros_like(grad), grad)
    stacked = aten.embedding_dense_backward.default(grad, _in_stack(index, rows), rows * size, -1, by_frequency)
    return cast(torch.Tensor, stacked.reshape(size, rows, grad.shape[-1]))


LOWERINGS: dict[Any, Lowering] = {aten.embedding.default: embedding}

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten._embedding_bag.default: _embedding_bag,
    aten._embedding_bag_forward_only.default: _embedding_bag,
    aten._embedding_bag_backward.default: _embedding_bag_backward,
}

COMPOSITES: dict[Any, Callable[..., Any]] = {
    aten.embedding_bag.default: _bags_composite,
    aten.embedding_bag.padding_idx: _bags_composite,
}

BATCHING: dict[Any, Callable[..., Any]] = {
    aten.embedding.default: mapped_kernel(aten.embedding.default, _embedding_batched),
    aten.embedding_dense_backward.default: mapped_kernel(
        aten.embedding_dense_backward.default, _embedding_backward_batched
    ),
}
