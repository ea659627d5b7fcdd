"""Convolutions of one to three spatial dimensions, transposed ones included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import Builder, Rule
from export.ops import windows

aten: Any = torch.ops.aten


def convolution(
    g: Builder,
    node: Node,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> ir.Value:
    """``aten.convolution``: Conv, or ConvTranspose. ONNX lists all pads at the front, then all at the end."""
    rank = len(g.shape_of(weight)) - 2
    stride, padding, dilation, extra = (spread(v, rank) for v in (stride, padding, dilation, output_padding))
    if g.tuned and not transposed and groups == 1 and len(g.shape_of(x)) == rank + 2:
        found = windows.windows(g, x, node, weight, stride, padding, dilation)
        if found is not None and math.prod(found.coarse) <= windows.FEW and g.static(g.shape_of(x)[0]) != 1:
            return _product(g, node, x, weight, bias, found)
    attributes: dict[str, Any] = {
        "strides": stride,
        "pads": [*padding, *padding],
        "dilations": dilation,
        "group": groups,
        "kernel_shape": g.fixed(g.shape_of(weight)[2:], "the kernel's sizes must not be dynamic"),
    }
    inputs = [g.tensor(x), g.tensor(weight)] + ([g.tensor(bias)] if bias is not None else [])
    unbatched = len(g.shape_of(x)) == rank + 1
    if unbatched:
        inputs[0] = g.unsqueeze(inputs[0], 0)
    if transposed:
        attributes["output_padding"] = extra if any(extra) else None
        result = g.op("ConvTranspose", *inputs, **attributes)
    else:
        result = g.op("Conv", *inputs, **attributes)
    return g.op("Squeeze", result, g.constant([0])) if unbatched else result


def _product(g: Builder, node: Node, x: Any, weight: Any, bias: Any, found: windows.Windows) -> ir.Value:
    """The convolution as one product for the batch."""
    many, few = g.shape_of(weight)[:2]
    flat = g.reshape(g.tensor(weight), [many, few * found.taps])
    shift = [g.reshape(g.tensor(bias), [many, 1])] if bias is not None else []
    result = g.op("Gemm", flat, windows.columns(g, g.tensor(x), few, found), *shift)
    return windows.across(g, g.reshape(result, [many, g.shape_of(x)[0], *found.coarse]), found.rank)


def spread(values: int | Sequence[int], rank: int) -> list[int]:
    """Return one number a dimension from one number, or from a list of one or of all."""
    numbers = [values] if isinstance(values, int) else list(values)
    return numbers if len(numbers) == rank else numbers[:1] * rank


TABLE: dict[Any, Rule] = {aten.convolution.default: convolution}
"""Convolutions."""
