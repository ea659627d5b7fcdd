"""Pooling over one to three spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from export.graph.builder import Builder, Rule
from export.ops.conv import spread

aten: Any = torch.ops.aten


def _batched(g: Builder, x: Any, rank: int) -> tuple[ir.Value, bool]:
    """ONNX pools (batch, channels, …) only; add the batch axis that PyTorch allows to leave out."""
    lone = len(g.shape_of(x)) == rank + 1
    return (g.unsqueeze(g.tensor(x), 0) if lone else g.tensor(x)), lone


def max_pool(rank: int) -> Rule:
    """Largest of each window, and its position in the plane if something uses it."""

    def rule(
        g: Builder,
        node: Node,
        x: Any,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> tuple[ir.Value, ir.Value | None]:
        sizes = spread(kernel, rank)
        pads = spread(padding, rank)
        value, lone = _batched(g, x, rank)
        attributes: dict[str, Any] = {
            "kernel_shape": sizes,
            "strides": spread(stride, rank) if stride else sizes,
            "pads": [*pads, *pads],
            "dilations": spread(dilation, rank),
            "ceil_mode": int(ceil_mode),
        }
        positions = None
        if any(user.args[1] == 1 for user in node.users if user.op == "call_function" and len(user.args) == 2):
            area = g.fixed(g.shape_of(x)[-rank:], "the positions of the largest values need fixed spatial sizes")
            result, flat = g.ops("MaxPool", value, count=2, dtypes=[None, torch.int64], **attributes)
            positions = g.op("Mod", flat, g.constant(math.prod(area)))
            positions = g.op("Squeeze", positions, g.constant([0])) if lone else positions
        else:
            result = g.op("MaxPool", value, **attributes)
        return (g.op("Squeeze", result, g.constant([0])) if lone else result), positions

    return rule


def avg_pool(rank: int) -> Rule:
    """Mean of each window."""

    def rule(
        g: Builder,
        node: Node,
        x: Any,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> ir.Value:
        sizes = spread(kernel, rank)
        pads = spread(padding, rank)
        if divisor_override and ceil_mode:
            raise g.unsupported("divisor_override with ceil_mode has no ONNX form")
        value, lone = _batched(g, x, rank)
        result = g.op(
            "AveragePool",
            value,
            kernel_shape=sizes,
            strides=spread(stride, rank) if stride else sizes,
            pads=[*pads, *pads],
            ceil_mode=int(ceil_mode),
            count_include_pad=int(count_include_pad or bool(divisor_override)),
        )
        if divisor_override:
            result = g.op("Mul", result, g.constant(math.prod(sizes) / divisor_override, g.dtypes[result]))
        return g.op("Squeeze", result, g.constant([0])) if lone else result

    return rule


TABLE: dict[Any, Rule] = {
    aten.max_pool2d_with_indices.default: max_pool(2),
    aten.max_pool3d_with_indices.default: max_pool(3),
    aten.avg_pool1d.default: avg_pool(1),
    aten.avg_pool2d.default: avg_pool(2),
    aten.avg_pool3d.default: avg_pool(3),
}
"""Pooling."""
