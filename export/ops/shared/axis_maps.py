"""Linear maps along single axes as matrices, for resizing, padding and adaptive means.

Each of these operators acts on one spatial axis after another as a matrix of constants, which it shows on unit vectors;
the gradient multiplies by the transpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch

from export.graph.builder import Builder
from export.graph.onnx_types import accumulation_dtype

__all__ = ["REPEATED_DTYPES", "AxisMap", "axis_matrices", "fixed_sizes", "repeated", "times_matrices"]

aten: Any = torch.ops.aten

AxisMap = Callable[[torch.Tensor, int, list[int]], torch.Tensor]
"""Applies the operator to an image whose other spatial axes stay: (image, axis, all sizes wanted) -> image."""

OTHER_AXIS_SIZE = 2
"""Size of the axes not under test; with 1, PyTorch's antialiased kernels skip the axis under test."""


REPEATED_DTYPES = frozenset({torch.float32, torch.float16})
"""What ONNX Runtime's Resize takes on every device."""


def repeated(g: Builder, value: ir.Value, factors: Sequence[int]) -> ir.Value:
    """Repeat each value of (batch, channels, *space) along the spatial axes; the dtype is one of `REPEATED_DTYPES`."""
    scales = g.constant([1.0, 1.0, *map(float, factors)], torch.float32)
    return g.op(
        "Resize",
        value,
        None,
        scales,
        coordinate_transformation_mode="asymmetric",
        mode="nearest",
        nearest_mode="floor",
    )


def axis_matrices(apply: AxisMap, inner: Sequence[int], outer: Sequence[int]) -> list[torch.Tensor]:
    """Return one matrix per axis, of shape (inner, outer): the images of the unit vectors."""
    result = []
    for axis, (size, wanted) in enumerate(zip(inner, outer, strict=True)):
        shape, target = [OTHER_AXIS_SIZE] * len(inner), [OTHER_AXIS_SIZE] * len(inner)
        shape[axis], target[axis] = size, wanted
        unit = [size if i == axis else 1 for i in range(len(inner))]
        image = torch.eye(size, dtype=torch.float64).reshape(1, size, *unit).expand(1, size, *shape).contiguous()
        resized = apply(image, axis, target).movedim(axis + 2, 2)
        result.append(resized.reshape(size, wanted, -1)[..., 0])
    return result


def times_matrices(g: Builder, value: ir.Value, rank: int, total: int, factors: Sequence[torch.Tensor]) -> ir.Value:
    """Multiply the last `rank` axes of a tensor of `total` axes by one matrix each; an identity is left out.

    The spatial sizes are those of the matrices. The last axis is multiplied from the right, the others from the left,
    with the axes behind them as one, so that nothing is transposed.
    """
    dtype = g.dtypes[value]
    inner = accumulation_dtype(dtype)
    value = g.cast(value, inner)
    sizes = [factor.shape[0] for factor in factors]
    for axis, factor in enumerate(factors):
        if factor.shape[0] == factor.shape[1] and bool((factor == torch.eye(factor.shape[0])).all()):
            continue
        sizes[axis] = factor.shape[1]
        if axis == rank - 1:
            value = g.op("MatMul", value, g.tensor_constant(factor.to(inner)))
            continue
        behind = sizes[axis + 1 :]
        lead = [0] * (total - rank + axis)  # sizes of axes in front stay
        if len(behind) > 1:
            value = g.op("Reshape", value, g.constant([*lead, factor.shape[0], math.prod(behind)]))
        value = g.op("MatMul", g.tensor_constant(factor.mT.to(inner)), value)
        if len(behind) > 1:
            value = g.op("Reshape", value, g.constant([*lead, *sizes[axis:]]))
    return g.cast(value, dtype)


def fixed_sizes(g: Builder, sizes: Sequence[Any]) -> list[int]:
    """Return sizes as numbers.

    Raises:
        UnsupportedOpError: one of them is dynamic.
    """
    return g.fixed(sizes, "resizing and its derivative need fixed spatial sizes")
