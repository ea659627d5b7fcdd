"""What ONNX Runtime's CPU kernels take beside their results: nothing where a result lies on an input, or a workspace.

Found by one model an operator and the counters of ONNX Runtime's profile; `parity_tests/test_memory.py` repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

__all__ = ["IN_PLACE", "OUTSIDE", "SELECTS", "VIEWS", "workspace"]

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""Operators whose result is their first input under another shape."""

IN_PLACE = frozenset(
    {
        *("Relu", "LeakyRelu", "ThresholdedRelu", "Elu", "Selu", "Softplus"),
        *("Sigmoid", "HardSigmoid", "Tanh", "Softmax", "LogSoftmax", "Clip", "Cast"),
    }
)
"""Operators that write over their first input where nothing else reads it; binary operators do not."""

SELECTS = frozenset({"Where"})
"""Operators that take their workspace, in two halves, before their result."""

OUTSIDE = frozenset({"ScatterElements"})
"""Operators whose workspace is not in the arena."""

_WORKSPACE_BYTES_PER_THREAD = 65_536
"""What a thread of a convolution unfolds windows into, where an image has more positions than the result channels."""

Shape = Sequence[int]


def workspace(node: onnx.NodeProto, shapes: Mapping[str, Shape], threads: int) -> int:
    """Return the bytes that a float32 kernel takes for itself while it runs.

    Args:
        node: the node.
        shapes: shapes of its inputs and outputs, those that are known.
        threads: how many threads the session has.
    """
    if not all(name in shapes for name in (*node.input, *node.output) if name):
        return 0
    made = [shapes[name] for name in node.output if name]
    match node.op_type:
        case "Conv" | "FusedConv" if node.domain != "com.microsoft.nchwc":
            return _convolution(node, shapes[node.input[0]], shapes[node.input[1]], made[0], threads)
        case "ConvTranspose":
            per_group, windows = shapes[node.input[1]][1:], shapes[node.input[0]][2:]
            return 4 * math.prod(per_group) * math.prod(windows)
        case "Where":  # selects from either side, then merges; without broadcasting too
            return 2 * 4 * math.prod(made[0])
        case "Softmax" | "LogSoftmax" if _attribute(node, "axis", -1) not in (-1, len(made[0]) - 1):
            return 2 * 4 * math.prod(made[0])
        case "ScatterElements":  # copies its indices
            return 8 * math.prod(shapes[node.input[1]])
        case "BiasGelu":
            return 4 * math.prod(made[0])
    return 0


def _convolution(node: onnx.NodeProto, x: Shape, weight: Shape, y: Shape, threads: int) -> int:
    steps, pads = _attribute(node, "strides", []), _attribute(node, "pads", [])
    if set(weight[2:]) == {1} and set(steps) <= {1} and not any(pads):
        return 0  # a product of the map as it lies
    positions, channels = math.prod(y[2:]), weight[0] // _attribute(node, "group", 1)
    if channels > positions:
        return 4 * math.prod(weight[1:]) * positions
    return threads * _WORKSPACE_BYTES_PER_THREAD


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default
