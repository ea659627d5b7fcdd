"""Products by groups of rows or columns, as mixtures of experts compute them (`torch.nn.functional.grouped_mm`).

`offsets` holds where each group of an axis ends. The file multiplies each group's slice by itself, so that its cost
does not grow with the number of groups. PyTorch's own operator takes no float64 and wants strides of 16 bytes, so the
graph holds an operator of this package, which computes in any precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import Node

from export.graph.builder import Builder, Lowering

__all__ = ["ABSENT", "BATCHING", "DECOMPOSITIONS", "FORWARD_MODE", "LOWERINGS"]

aten: Any = torch.ops.aten

_library = torch.library.Library("pure_export", "FRAGMENT")
_library.define("grouped_mm(Tensor a, Tensor b, Tensor offsets) -> Tensor")


def _shape(a: Tensor, b: Tensor, offsets: Tensor) -> list[Any]:
    """Return the shape of a grouped product."""
    groups = [offsets.shape[0]] if a.dim() == b.dim() else []
    return [*groups, a.shape[-2], b.shape[-1]]


def _spans(offsets: Tensor) -> Iterator[tuple[int, slice]]:
    """Yield the number and the positions of each group."""
    start = 0
    for group, end in enumerate(offsets.tolist()):
        yield group, slice(start, end)
        start = end


def _computed(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
    """Multiply group by group; positions after the last group give zeros."""
    result = torch.zeros(_shape(a, b, offsets), dtype=a.dtype, device=a.device)
    for group, span in _spans(offsets):
        if a.dim() == b.dim():
            result[group] = a[:, span] @ b[span]
        elif a.dim() == 2:
            result[span] = a[span] @ b[group]
        else:
            result[:, span] = a[group] @ b[:, span]
    return result


def _fake(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
    return a.new_empty(_shape(a, b, offsets))


_library.impl("grouped_mm", _computed, "CompositeExplicitAutograd")
torch.library.register_fake("pure_export::grouped_mm", _fake, lib=_library)
_grouped_mm: Any = torch.ops.pure_export.grouped_mm.default


def _remember(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _derivative(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor, None]:
    a, b, offsets = ctx.saved_tensors
    return _grouped_mm(cotangent, b.mT, offsets), _grouped_mm(a.mT, cotangent, offsets), None


torch.library.register_autograd("pure_export::grouped_mm", _derivative, setup_context=_remember, lib=_library)


def _of_slices(
    a: Tensor, b: Tensor, offsets: Tensor | None = None, bias: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Compute `aten._grouped_mm` by this package's operator."""
    result = torch.bmm(a, b) if offsets is None else _grouped_mm(a, b, offsets)
    return _finished(result, bias, dtype)


def _of_dense_products(
    a: Tensor, b: Tensor, offsets: Tensor | None = None, bias: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Compute `aten._grouped_mm` by masked products of all groups, which every transform differentiates and maps."""
    if offsets is None:
        return _finished(torch.bmm(a, b), bias, dtype)
    grouped = a.shape[1] if a.dim() == b.dim() else a.shape[0] if a.dim() == 2 else b.shape[1]
    places = torch.arange(grouped, device=offsets.device)
    before = (places < offsets.unsqueeze(1)).to(a.dtype)
    members = torch.diff(before, dim=0, prepend=torch.zeros_like(before[:1]))
    if a.dim() == b.dim():
        result = (a * members.unsqueeze(1)) @ b
    elif a.dim() == 2:
        result = ((a * members.unsqueeze(2)) @ b).sum(0)
    else:
        result = (a @ (b * members.unsqueeze(1))).sum(0)
    return _finished(result, bias, dtype)


def _finished(result: Tensor, bias: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    result = result if bias is None else result + bias
    return result if dtype is None else result.to(dtype)


def grouped_mm(g: Builder, node: Node, a: Any, b: Any, offsets: Any) -> ir.Value:
    """Lower to one product a group, of slices."""
    left, right = g.tensor(a), g.tensor(b)
    ranks = len(g.shape_of(a)), len(g.shape_of(b))
    (groups,) = g.fixed(g.shape_of(offsets), "the number of groups has to be fixed")
    ends = g.tensor(offsets, torch.int64)
    start = g.constant([0])
    parts = []
    for group in range(groups):
        end = g.op("Slice", ends, g.constant([group]), g.constant([group + 1]))

        def span(value: ir.Value, axis: int, start: ir.Value = start, end: ir.Value = end) -> ir.Value:
            return g.op("Slice", value, start, end, g.constant([axis]))

        def member(value: ir.Value, number: int = group) -> ir.Value:
            return g.op("Gather", value, g.constant(number), axis=0)

        if ranks == (2, 2):
            parts.append(g.unsqueeze(g.op("MatMul", span(left, 1), span(right, 0)), 0))
        elif ranks == (2, 3):
            parts.append(g.op("MatMul", span(left, 0), member(right)))
        else:
            parts.append(g.op("MatMul", member(left), span(right, 1)))
        start = end
    if ranks == (2, 2):
        return g.op("Concat", *parts, axis=0)
    axis = 0 if ranks == (2, 3) else 1
    whole, other = (left, right) if axis == 0 else (right, left)
    missing = g.op("Sub", g.dim(whole, axis), start)
    across = g.dim(other, 2 - axis)
    shape = g.op("Concat", *((missing, across) if axis == 0 else (across, missing)), axis=0)
    rest = g.op("Expand", g.constant(0, g.dtypes[left]), shape)
    return g.op("Concat", *parts, rest, axis=axis)


LOWERINGS: dict[Any, Lowering] = {_grouped_mm: grouped_mm}

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {}
BATCHING: dict[Any, Callable[..., Any]] = {}
FORWARD_MODE: dict[Any, Callable[..., Any]] = {}
if hasattr(aten, "_grouped_mm"):  # PyTorch 2.8 and later
    DECOMPOSITIONS[aten._grouped_mm.default] = _of_slices
    BATCHING[aten._grouped_mm.default] = _of_dense_products
    FORWARD_MODE[aten._grouped_mm.default] = _of_dense_products

ABSENT: dict[Any, str] = {op: "PyTorch has no kernels of vmap and forward mode" for op in DECOMPOSITIONS}
