"""Linear maps along single axes: derivatives of resizing, of replicating padding and of adaptive means.

Each of these acts on one spatial axis after another, on every one as a matrix of fixed numbers. What the operator makes
of the unit vectors is that matrix; the derivative multiplies by its transpose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import REDUCED, Builder, Rule

aten: Any = torch.ops.aten
Along = Callable[[torch.Tensor, int, list[int]], torch.Tensor]
"""Applies the operator to an image whose other spatial axes stay: (image, axis, all sizes wanted) -> image."""

OTHER = 2
"""The size of the other axes; with 1, PyTorch's antialiased kernels leave out an axis that they should resize."""


def matrices(apply: Along, inner: Sequence[int], outer: Sequence[int]) -> list[torch.Tensor]:
    """Return one matrix an axis, of shape (inner, outer): what becomes of each unit vector."""
    result = []
    for axis, (size, wanted) in enumerate(zip(inner, outer, strict=True)):
        shape, target = [OTHER] * len(inner), [OTHER] * len(inner)
        shape[axis], target[axis] = size, wanted
        unit = [size if i == axis else 1 for i in range(len(inner))]
        image = torch.eye(size, dtype=torch.float64).reshape(1, size, *unit).expand(1, size, *shape).contiguous()
        resized = apply(image, axis, target).movedim(axis + 2, 2)
        result.append(resized.reshape(size, wanted, -1)[..., 0])
    return result


def multiplied(g: Builder, value: ir.Value, rank: int, total: int, factors: Sequence[torch.Tensor]) -> ir.Value:
    """Multiply the last ``rank`` axes of a tensor of ``total`` axes by one matrix each; an identity is left out."""
    dtype = g.dtypes[value]
    inner = torch.float32 if dtype in REDUCED else dtype
    value = g.cast(value, inner)
    for axis, factor in enumerate(factors):
        if factor.shape[0] == factor.shape[1] and bool((factor == torch.eye(factor.shape[0])).all()):
            continue
        place, last = total - rank + axis, total - 1
        order = list(range(total))
        order[place], order[last] = last, place
        value = g.op("MatMul", g.transpose(value, order), g.tensor_constant(factor.to(inner)))
        value = g.transpose(value, order)
    return g.cast(value, dtype)


def _sizes(g: Builder, sizes: Sequence[Any]) -> list[int]:
    return g.fixed(sizes, "resizing and its derivative need fixed spatial sizes")


def resize_backward(forward: Any, corners: bool) -> Rule:
    """``upsample_…_backward``, with ``align_corners`` where the kind has it."""

    def rule(
        g: Builder, node: Node, grad: Any, output_size: Any, input_size: Any, *rest: Any, **named: Any
    ) -> ir.Value:
        outer = _sizes(g, output_size)
        rank = len(outer)
        inner = _sizes(g, input_size[2:])
        names = [argument.name for argument in cast(Any, node.target)._schema.arguments[3:]]
        given = dict(zip(names, rest, strict=False)) | named
        align = [given.pop("align_corners")] if corners else []
        scales = [*given.values(), *[None] * rank][:rank]

        def apply(image: torch.Tensor, axis: int, sizes: list[int]) -> torch.Tensor:
            own = (scale if i == axis else None for i, scale in enumerate(scales))
            return cast(torch.Tensor, forward(image, sizes, *align, *own))

        factors = [matrix.mT for matrix in matrices(apply, inner, outer)]
        return multiplied(g, g.tensor(grad), rank, rank + 2, factors)

    return rule


def adaptive_mean(rank: int, backward: bool) -> Rule:
    """``_adaptive_avg_pool…`` and its derivative."""
    forward = {2: aten._adaptive_avg_pool2d, 3: aten._adaptive_avg_pool3d}[rank]

    def rule(g: Builder, node: Node, value: Any, other: Any) -> ir.Value:
        inner = _sizes(g, g.shape_of(other if backward else value)[-rank:])
        outer = _sizes(g, g.shape_of(value)[-rank:] if backward else other)

        def apply(image: torch.Tensor, axis: int, sizes: list[int]) -> torch.Tensor:
            return cast(torch.Tensor, forward(image, sizes))

        factors = matrices(apply, inner, outer)
        if backward:
            factors = [matrix.mT for matrix in factors]
        return multiplied(g, g.tensor(value), rank, len(g.shape_of(value)), factors)

    return rule


def replicate_backward(rank: int) -> Rule:
    """``replication_pad…_backward``; PyTorch lists the amounts from the last axis."""

    def rule(g: Builder, node: Node, grad: Any, x: Any, pad: Sequence[int]) -> ir.Value:
        inner, outer = (_sizes(g, g.shape_of(arg)[-rank:]) for arg in (x, grad))

        def apply(image: torch.Tensor, axis: int, sizes: list[int]) -> torch.Tensor:
            own = [amount if i // 2 == rank - 1 - axis else 0 for i, amount in enumerate(pad)]
            return torch.nn.functional.pad(image, own, mode="replicate")

        factors = [matrix.mT for matrix in matrices(apply, inner, outer)]
        return multiplied(g, g.tensor(grad), rank, len(g.shape_of(grad)), factors)

    return rule


TABLE: dict[Any, Rule] = {
    aten.upsample_nearest1d_backward.default: resize_backward(aten.upsample_nearest1d, False),
    aten.upsample_nearest2d_backward.default: resize_backward(aten.upsample_nearest2d, False),
    aten.upsample_nearest3d_backward.default: resize_backward(aten.upsample_nearest3d, False),
    aten._upsample_nearest_exact1d_backward.default: resize_backward(aten._upsample_nearest_exact1d, False),
    aten._upsample_nearest_exact2d_backward.default: resize_backward(aten._upsample_nearest_exact2d, False),
    aten._upsample_nearest_exact3d_backward.default: resize_backward(aten._upsample_nearest_exact3d, False),
    aten.upsample_linear1d_backward.default: resize_backward(aten.upsample_linear1d, True),
    aten.upsample_bilinear2d_backward.default: resize_backward(aten.upsample_bilinear2d, True),
    aten.upsample_trilinear3d_backward.default: resize_backward(aten.upsample_trilinear3d, True),
    aten.upsample_bicubic2d_backward.default: resize_backward(aten.upsample_bicubic2d, True),
    aten._upsample_bilinear2d_aa_backward.default: resize_backward(aten._upsample_bilinear2d_aa, True),
    aten._upsample_bicubic2d_aa_backward.default: resize_backward(aten._upsample_bicubic2d_aa, True),
    aten._adaptive_avg_pool2d_backward.default: adaptive_mean(2, True),
    aten._adaptive_avg_pool3d_backward.default: adaptive_mean(3, True),
    aten._adaptive_avg_pool3d.default: adaptive_mean(3, False),
    aten.replication_pad1d_backward.default: replicate_backward(1),
    aten.replication_pad2d_backward.default: replicate_backward(2),
    aten.replication_pad3d_backward.default: replicate_backward(3),
}
"""Linear maps along single axes."""
