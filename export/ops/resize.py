"""Resizing of images and its derivatives.

To the nearest value by a whole factor it is ONNX's Resize, and its gradient sums over windows. Other resizing to fixed
sizes is one small matrix of constants an axis, whose transpose is the gradient: on a CPU that takes less than Resize up
to the size below, and Resize's cubic form takes seventy times as much. Where sizes are dynamic and the factor is no
whole number, PyTorch's decomposition computes positions from sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import onnx_ir as ir
import torch
from torch._C import DispatchKey
from torch._decomp import decomposition_table
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Node

from export.graph.builder import Builder, Lowering
from export.ops import fallback
from export.ops.shared.axis_maps import REPEATED_DTYPES, axis_matrices, fixed_sizes, repeated, times_matrices
from export.ops.shared.kernels import Kernel, fake_like, folded, mapped_kernel, mapped_size, unfold, with_mapped_axis

__all__ = ["BATCHING", "COMPOSITES", "DERIVED_WHOLE", "FAKES", "LOWERINGS"]

aten: Any = torch.ops.aten

MAX_MATRIX_SIZE = 96
"""Size of an axis up to which a linear map by its matrix takes less time than ONNX Runtime's linear Resize."""

NEAREST = {
    1: (aten.upsample_nearest1d, aten._upsample_nearest_exact1d),
    2: (aten.upsample_nearest2d, aten._upsample_nearest_exact2d),
    3: (aten.upsample_nearest3d, aten._upsample_nearest_exact3d),
}
"""{number of spatial axes: operators}. By a whole factor the two take the same values."""

SMOOTH = (aten.upsample_linear1d, aten.upsample_bilinear2d, aten.upsample_trilinear3d, aten.upsample_bicubic2d)

ANTIALIASED = (aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa)


def _form(size: Any) -> Any:
    """Return a size as a number or a formula, for a node, a symbolic size or a number."""
    size = size.meta["val"] if isinstance(size, Node) else size
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _whole_factors(inner: Sequence[Any], outer: Sequence[Any], scales: Sequence[float | None]) -> list[int] | None:
    """Return the factor of each axis, None where one is no whole number or another scale was given."""
    factors = []
    for size, wanted, scale in zip(map(_form, inner), map(_form, outer), scales, strict=True):
        quotient: Any = wanted / size if size else 0.0
        if not isinstance(quotient, float) and not quotient.is_Integer:
            return None
        factor = int(quotient)
        if factor < 1 or factor != quotient or scale not in (None, factor):
            return None
        factors.append(factor)
    return factors


def _given(rank: int, rest: Sequence[Any], named: dict[str, Any]) -> list[float | None]:
    """Return the scale of each axis from an operator's last arguments."""
    return [*rest, *named.values(), *[None] * rank][:rank]


def nearest(forward: Any, rank: int) -> Lowering:
    """Lower `upsample_nearest…`: Resize by a whole factor, one Gather an axis to other sizes."""

    def rule(g: Builder, node: Node, x: Any, output_size: Any, *rest: Any, **named: Any) -> ir.Value:
        scales = _given(rank, rest, named)
        value, sizes = g.tensor(x), g.shape_of(x)[2:]
        factors = _whole_factors(sizes, output_size, scales)
        if factors is not None and g.dtypes[value] in REPEATED_DTYPES:
            return repeated(g, value, factors)
        inner, outer = fixed_sizes(g, sizes), fixed_sizes(g, output_size)
        for axis, (size, wanted) in enumerate(zip(inner, outer, strict=True)):
            shape, target = [1] * rank, [1] * rank
            shape[axis], target[axis] = size, wanted
            own = (scale if i == axis else None for i, scale in enumerate(scales))
            image = torch.arange(size, dtype=torch.float64).reshape(1, 1, *shape)
            picked = forward(image, target, *own).flatten().long()
            if picked.tolist() != list(range(size)):
                value = g.op("Gather", value, g.tensor_constant(picked), axis=axis + 2)
        return value

    return rule


def nearest_backward(forward: Any, rank: int) -> Lowering:
    """Lower `upsample_nearest…_backward`: sum over each value's copies."""
    by_matrices = resize_backward(forward, False)

    def rule(
        g: Builder, node: Node, grad: Any, output_size: Any, input_size: Any, *rest: Any, **named: Any
    ) -> ir.Value:
        factors = _whole_factors(input_size[2:], output_size, _given(rank, rest, named))
        if factors is None:
            return cast(ir.Value, by_matrices(g, node, grad, output_size, input_size, *rest, **named))
        value = g.tensor(grad)
        dtype = g.dtypes[value]
        if dtype == torch.float64:  # ONNX Runtime's AveragePool has none
            inner = g.fixed(input_size[2:], "this derivative needs fixed spatial sizes in float64")
            apart = [size for pair in zip(inner, factors, strict=True) for size in pair]
            value = g.op("Reshape", value, g.constant([0, 0, *apart]))
            return g.op("ReduceSum", value, g.constant([3 + 2 * i for i in range(rank)]), keepdims=0)
        means = g.op("AveragePool", g.cast(value, torch.float32), kernel_shape=factors, strides=factors)
        return g.cast(g.op("Mul", means, g.constant(float(math.prod(factors)), torch.float32)), dtype)

    return rule


def resize_backward(forward: Any, corners: bool) -> Lowering:
    """Lower `upsample_…_backward`; `corners` tells whether it has the argument `align_corners`."""

    def rule(
        g: Builder, node: Node, grad: Any, output_size: Any, input_size: Any, *rest: Any, **named: Any
    ) -> ir.Value:
        rank = len(output_size)
        names = [argument.name for argument in cast(Any, node.target)._schema.arguments[3:]]
        given = dict(zip(names, rest, strict=False)) | named
        align = [given.pop("align_corners")] if corners else []
        scales = _given(rank, (), given)
        factors = _matrices(g, forward, fixed_sizes(g, input_size[2:]), fixed_sizes(g, output_size), align, scales)
        return times_matrices(g, g.tensor(grad), rank, rank + 2, [matrix.mT for matrix in factors])

    return rule


def _matrices(
    g: Builder, forward: Any, inner: list[int], outer: list[int], align: Sequence[bool], scales: Sequence[float | None]
) -> list[torch.Tensor]:
    """Return each axis' matrix of shape (inner, outer)."""

    def apply(image: torch.Tensor, axis: int, sizes: list[int]) -> torch.Tensor:
        own = (scale if i == axis else None for i, scale in enumerate(scales))
        return cast(torch.Tensor, forward(image, sizes, *align, *own))

    return axis_matrices(apply, inner, outer)


def smooth(forward: Any, rank: int) -> Lowering:
    """Lower resizing by means of neighbours: one matrix an axis, Resize for linear means of large images."""
    linear = forward is not aten.upsample_bicubic2d

    def rule(
        g: Builder, node: Node, x: Any, output_size: Any, align_corners: bool, *rest: Any, **named: Any
    ) -> ir.Value:
        scales = _given(rank, rest, named)
        value, inner, outer = g.tensor(x), fixed_sizes(g, g.shape_of(x)[2:]), fixed_sizes(g, output_size)
        plain = align_corners or scales == [None] * rank or _whole_factors(inner, outer, scales) is not None
        if linear and plain and max(inner) > MAX_MATRIX_SIZE and g.dtypes[value] in REPEATED_DTYPES:
            place = "align_corners" if align_corners else "half_pixel"
            lead = g.op("Shape", value, dtype=torch.int64, start=0, end=2)
            sizes = g.op("Concat", lead, g.constant(outer), axis=0)
            return g.op("Resize", value, None, None, sizes, coordinate_transformation_mode=place, mode="linear")
        return times_matrices(g, value, rank, rank + 2, _matrices(g, forward, inner, outer, [align_corners], scales))

    return rule


def antialiased(forward: Any) -> Lowering:
    """Lower antialiased resizing: one matrix an axis; onnxscript's function to a size from dynamic or large sizes.

    onnxscript's function leaves scales unread, and ONNX places the samples of aligned corners elsewhere.
    """

    def rule(
        g: Builder, node: Node, x: Any, output_size: Any, align_corners: bool, *rest: Any, **named: Any
    ) -> ir.Value:
        scales = _given(2, rest, named)
        sizes = [g.static(size) for size in g.shape_of(x)[2:]]
        large = max(math.inf if size is None else size for size in sizes) > MAX_MATRIX_SIZE
        if large and not align_corners and scales == [None, None]:
            return cast(ir.Value, fallback.lower(g, node))
        inner, outer = fixed_sizes(g, g.shape_of(x)[2:]), fixed_sizes(g, output_size)
        return times_matrices(g, g.tensor(x), 2, 4, _matrices(g, forward, inner, outer, [align_corners], scales))

    return rule


def _fixed(sizes: Sequence[Any]) -> bool:
    return all(isinstance(size, int) for size in sizes)


def _kept_nearest(op: Any, rank: int) -> Kernel:
    """Make `upsample_nearest…`: whole where its sizes are fixed or the factor is whole, decomposed elsewhere."""
    decomposed = decomposition_table[op.default]

    def rule(x: torch.Tensor, output_size: Sequence[Any], *scales: float | None) -> Any:
        factors = _whole_factors(x.shape[2:], output_size, _given(rank, scales, {}))
        if _fixed((*x.shape[2:], *output_size)) or (factors is not None and x.dtype in REPEATED_DTYPES):
            return op.default._op_dk(DispatchKey.Autograd, x, output_size, *scales)
        return decomposed(x, output_size, *scales)

    return rule


def _kept_smooth(op: Any) -> Kernel:
    """Make `upsample_linear…` or bicubic: whole where its sizes are fixed, decomposed elsewhere."""
    decomposed = decomposition_table[op.default]

    def rule(x: torch.Tensor, output_size: Sequence[Any], align_corners: bool, *scales: float | None) -> Any:
        if _fixed((*x.shape[2:], *output_size)):
            return op.default._op_dk(DispatchKey.Autograd, x, output_size, align_corners, *scales)
        return decomposed(x, output_size, align_corners, *scales)

    return rule


def _of_vector(op: Any) -> Kernel:
    """Make the overload that `F.interpolate` calls, with sizes or factors as a list, of the one with numbers."""

    def rule(x: torch.Tensor, output_size: Any, *rest: Any) -> Any:
        *align, factors = rest
        if output_size is None:
            output_size = [
                size * int(factor) if factor == int(factor) else torch.sym_int(size * factor)
                for size, factor in zip(x.shape[2:], factors, strict=True)
            ]
        return op.default(x, output_size, *align, *(factors or [None] * len(output_size)))

    return rule


def _folded_backward(op: Any) -> Kernel:
    """Make the kernel of `vmap` of a derivative, which is given the size of the batch."""

    def rule(mapped: Sequence[bool], grad: Any, output_size: Any, input_size: Any, *rest: Any) -> Any:
        size = mapped_size(mapped, [grad])
        images = with_mapped_axis(grad, mapped[0], size)
        batch, *inner = input_size
        flat = images.reshape(size * batch, *images.shape[2:])
        return unfold(op(flat, output_size, [size * batch, *inner], *rest), size, batch)

    return mapped_kernel(op, rule)


def _fake_image(mode: FakeTensorMode, x: FakeTensor, output_size: Sequence[Any], *_: Any) -> FakeTensor:
    """Return a fake image of the new size; PyTorch's kernels in C++ take numbers alone."""
    return fake_like(mode, x, (*x.shape[:2], *output_size), x.dtype)


def _fake_gradient(mode: FakeTensorMode, grad: FakeTensor, output_size: Any, input_size: Any, *_: Any) -> FakeTensor:
    """Return a fake gradient of the size of the image."""
    return fake_like(mode, grad, tuple(input_size), grad.dtype)


_RANKS = {**{op: rank for rank, both in NEAREST.items() for op in both}, **dict(zip(SMOOTH, (1, 2, 3, 2), strict=True))}


def _backward(op: Any) -> Any:
    return getattr(aten, f"{op._qualified_op_name.removeprefix('aten::')}_backward").default


LOWERINGS: dict[Any, Lowering] = {
    **{op.default: nearest(op, rank) for rank, both in NEAREST.items() for op in both},
    **{_backward(op): nearest_backward(op, rank) for rank, both in NEAREST.items() for op in both},
    **{op.default: smooth(op, _RANKS[op]) for op in SMOOTH},
    **{op.default: antialiased(op) for op in ANTIALIASED},
    **{_backward(op): resize_backward(op, True) for op in (*SMOOTH, *ANTIALIASED)},
}

COMPOSITES: dict[Any, Callable[..., Any]] = {op.vec: _of_vector(op) for op in _RANKS}

DERIVED_WHOLE: dict[Any, Callable[..., Any]] = {
    op.default: _kept_smooth(op) if op in SMOOTH else _kept_nearest(op, rank) for op, rank in _RANKS.items()
}

BATCHING: dict[Any, Callable[..., Any]] = {
    **folded(*(op.default for op in _RANKS)),
    **{_backward(op): _folded_backward(_backward(op)) for op in _RANKS},
}

FAKES: dict[Any, Callable[..., Any]] = {
    **{op.default: _fake_image for op in _RANKS},
    **{_backward(op): _fake_gradient for op in _RANKS},
}
