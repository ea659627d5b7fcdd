"""Resizing of images and its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import Builder, Lowering
from export.ops import fallback
from export.ops.shared.axis_maps import axis_matrices, fixed_sizes, times_matrices
from export.ops.shared.kernels import pytorch_rules

__all__ = ["DECOMPOSITIONS", "LOWERINGS"]

aten: Any = torch.ops.aten


def resize_backward(forward: Any, corners: bool) -> Lowering:
    """Lower `upsample_…_backward`; `corners` tells whether it has the argument `align_corners`."""

    def rule(
        g: Builder, node: Node, grad: Any, output_size: Any, input_size: Any, *rest: Any, **named: Any
    ) -> ir.Value:
        outer = fixed_sizes(g, output_size)
        rank = len(outer)
        inner = fixed_sizes(g, input_size[2:])
        names = [argument.name for argument in cast(Any, node.target)._schema.arguments[3:]]
        given = dict(zip(names, rest, strict=False)) | named
        align = [given.pop("align_corners")] if corners else []
        scales = [*given.values(), *[None] * rank][:rank]

        def apply(image: torch.Tensor, axis: int, sizes: list[int]) -> torch.Tensor:
            own = (scale if i == axis else None for i, scale in enumerate(scales))
            return cast(torch.Tensor, forward(image, sizes, *align, *own))

        factors = [matrix.mT for matrix in axis_matrices(apply, inner, outer)]
        return times_matrices(g, g.tensor(grad), rank, rank + 2, factors)

    return rule


def antialiased(forward: Any) -> Lowering:
    """Lower antialiased resizing: by onnxscript's function to a size, by one matrix per axis with a scale or corners.

    onnxscript's function leaves the scales unread, and ONNX places the samples of aligned corners elsewhere.
    """

    def rule(
        g: Builder, node: Node, x: Any, output_size: Any, align_corners: bool, *scales: float | None, **named: Any
    ) -> ir.Value:
        given = [*scales, *named.values(), None, None][:2]
        if not align_corners and given == [None, None]:
            return cast(ir.Value, fallback.lower(g, node))

        def apply(image: torch.Tensor, axis: int, sizes: list[int]) -> torch.Tensor:
            own = (scale if i == axis else None for i, scale in enumerate(given))
            return cast(torch.Tensor, forward(image, sizes, align_corners, *own))

        factors = axis_matrices(apply, fixed_sizes(g, g.shape_of(x)[2:]), fixed_sizes(g, output_size))
        return times_matrices(g, g.tensor(x), 2, 4, factors)

    return rule


LOWERINGS: dict[Any, Lowering] = {
    aten._upsample_bilinear2d_aa.default: antialiased(aten._upsample_bilinear2d_aa),
    aten._upsample_bicubic2d_aa.default: antialiased(aten._upsample_bicubic2d_aa),
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
}

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = pytorch_rules(
    aten.grid_sampler_2d.default,
    aten.upsample_nearest2d.vec,
    aten.upsample_bilinear2d.vec,
    aten.upsample_bilinear2d.default,
    aten.upsample_bicubic2d.default,
    aten.upsample_trilinear3d.default,
)
