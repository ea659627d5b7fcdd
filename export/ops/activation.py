"""Activation functions and their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
import torch.autograd.forward_ad as fwAD
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Node

from export.graph.builder import Builder, Lowering, node_dtype
from export.ops.arithmetic import unary
from export.ops.comparison import limited
from export.ops.shared.elementary import expm1_of
from export.ops.shared.kernels import fake_like, pointwise

__all__ = ["BATCHING", "DECOMPOSITIONS", "FAKES", "FORWARD_MODE", "LOWERINGS"]

aten: Any = torch.ops.aten


def gelu(g: Builder, node: Node, x: Any, approximate: str = "none") -> ir.Value:
    """Compute GELU, exactly by erf or approximately by tanh."""
    value, dtype = g.tensor(x), node_dtype(node)
    if g.opset >= 20 and dtype in (torch.float32, torch.float16):
        return g.op("Gelu", value, approximate=approximate)
    half, one = g.constant(0.5, dtype), g.constant(1.0, dtype)
    if approximate == "tanh":
        cube = g.op("Mul", g.op("Mul", value, value), value)
        inner = g.op("Add", value, g.op("Mul", cube, g.constant(0.044715, dtype)))
        bend = g.op("Tanh", g.op("Mul", inner, g.constant(math.sqrt(2 / math.pi), dtype)))
    else:
        bend = g.op("Erf", g.op("Mul", value, g.constant(math.sqrt(0.5), dtype)))
    return g.op("Mul", g.op("Mul", value, half), g.op("Add", bend, one))


def silu(g: Builder, node: Node, x: Any) -> ir.Value:
    """x·sigmoid(x)."""
    return g.op("Mul", g.tensor(x), g.op("Sigmoid", g.tensor(x)))


def elu(g: Builder, node: Node, x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> ir.Value:
    """scale·(x if x > 0 else alpha·(exp(input_scale·x) - 1)), which includes SELU.

    Not by ONNX's `Elu`, which ONNX Runtime computes as exp(x) - 1: near 0 no digit of that is left.
    """
    dtype = node_dtype(node)
    value = g.tensor(x)
    below = g.op("Min", value, g.constant(0.0, dtype))
    below = below if input_scale == 1 else g.op("Mul", below, g.constant(input_scale, dtype))
    bent = expm1_of(g, below, dtype)
    bent = bent if alpha == 1 else g.op("Mul", bent, g.constant(alpha, dtype))
    result = g.op("Add", g.op("Relu", value), bent)
    return result if scale == 1 else g.op("Mul", result, g.constant(scale, dtype))


def softplus(g: Builder, node: Node, x: Any, beta: float = 1.0, threshold: float = 20.0) -> ir.Value:
    """log(1 + exp(beta·x)) / beta, linear above the threshold as in PyTorch."""
    dtype = node_dtype(node)
    value = g.tensor(x)
    inner = value if beta == 1 else g.op("Mul", value, g.constant(beta, dtype))
    soft = g.op("Softplus", inner)
    soft = soft if beta == 1 else g.op("Div", soft, g.constant(beta, dtype))
    linear = g.op("Greater", inner, g.constant(threshold, dtype), dtype=torch.bool)
    return g.op("Where", linear, value, soft, dtype=dtype)


def mish(g: Builder, node: Node, x: Any) -> ir.Value:
    """x·tanh(softplus(x))."""
    return g.op("Mul", g.tensor(x), g.op("Tanh", softplus(g, node, x)))


def leaky_relu(g: Builder, node: Node, x: Any, slope: float = 0.01) -> ir.Value:
    """x if x > 0 else slope·x; without LeakyRelu in float64, as its attribute is a float32."""
    if node_dtype(node) == torch.float64:
        value = g.tensor(x)
        below = g.op("Min", value, g.constant(0.0, torch.float64))
        return g.op("Add", g.op("Relu", value), g.op("Mul", below, g.constant(slope, torch.float64)))
    return g.op("LeakyRelu", g.tensor(x), alpha=float(slope))


def prelu(g: Builder, node: Node, x: Any, weight: Any) -> ir.Value:
    """Leaky ReLU with a learned slope, whose shape broadcasts against x already."""
    return g.op("PRelu", g.tensor(x), g.tensor(weight))


def hardtanh(g: Builder, node: Node, x: Any, low: float = -1.0, high: float = 1.0) -> ir.Value:
    """Limit to [low, high]."""
    return limited(g, g.tensor(x), low, high)


def _raised(g: Builder, node: Node, x: Any) -> ir.Value:
    """min(max(x + 3, 0), 6)."""
    return limited(g, g.op("Add", g.tensor(x), g.constant(3.0, node_dtype(node))), 0.0, 6.0)


def hardsigmoid(g: Builder, node: Node, x: Any) -> ir.Value:
    """min(max(x + 3, 0), 6) / 6."""
    return g.op("Div", _raised(g, node, x), g.constant(6.0, node_dtype(node)))


def hardswish(g: Builder, node: Node, x: Any) -> ir.Value:
    """x·min(max(x + 3, 0), 6) / 6.

    Not by ONNX's `HardSwish`, which is x·(x / 6 + 1 / 2) inside: near -3 no digit of that sum is left.
    """
    product = g.op("Mul", g.tensor(x), _raised(g, node, x))
    return g.op("Div", product, g.constant(6.0, node_dtype(node)))


def softmax(kind: str) -> Lowering:
    """Softmax and LogSoftmax over one axis."""

    def rule(g: Builder, node: Node, x: Any, dim: int, half_to_float: bool = False) -> ir.Value:
        value = g.tensor(x, node_dtype(node))
        if not g.shape_of(x):
            return g.op("Squeeze", g.op(kind, g.unsqueeze(value, 0), axis=0), g.constant([0]))
        return g.op(kind, value, axis=dim)

    return rule


def logsigmoid(g: Builder, node: Node, x: Any) -> tuple[ir.Value, ir.Value]:
    """-softplus(-x), and exp(-|x|), which PyTorch keeps for the derivative."""
    value = g.tensor(x)
    result = g.op("Neg", g.op("Softplus", g.op("Neg", value)))
    return result, g.op("Exp", g.op("Neg", g.op("Abs", value)))


def _shrink_backward(grad: torch.Tensor, x: torch.Tensor, threshold: float) -> torch.Tensor:
    """Pass the gradient on outside of the threshold, zero inside."""
    return torch.where((x >= -threshold) & (x <= threshold), torch.zeros_like(grad), grad)


def _glu_jvp(result: torch.Tensor, x: torch.Tensor, tangent: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the tangent of a·sigmoid(b)."""
    gate = x.chunk(2, dim)[1].sigmoid()
    d_value, d_gate = tangent.chunk(2, dim)
    return d_value * gate + result * (1 - gate) * d_gate


def _softmax_dual(x: torch.Tensor, dim: int, half_to_float: bool = False) -> Any:
    """Softmax y with its tangent y·(t - Σ y·t); PyTorch's own computes the exponentials a second time."""
    value, tangent = fwAD.unpack_dual(x)
    y = aten._softmax(value, dim, half_to_float)
    weighted = y * tangent
    return fwAD.make_dual(y, weighted - y * weighted.sum(dim, keepdim=True))


def _log_softmax_dual(x: torch.Tensor, dim: int, half_to_float: bool = False) -> Any:
    """LogSoftmax y with its tangent t - Σ exp(y)·t."""
    value, tangent = fwAD.unpack_dual(x)
    y = aten._log_softmax(value, dim, half_to_float)
    return fwAD.make_dual(y, tangent - (y.exp() * tangent).sum(dim, keepdim=True))


def _gelu_dual(x: torch.Tensor, approximate: str = "none") -> Any:
    """GELU with its tangent: x·Φ(x) and (Φ(x) + x·φ(x))·t, which share the error function."""
    if approximate != "none":
        return NotImplemented
    value, tangent = fwAD.unpack_dual(x)
    below, density = _normal(value)
    return fwAD.make_dual(value * below, (below + value * density) * tangent)


def _gelu_backward_dual(grad: torch.Tensor, x: torch.Tensor, approximate: str = "none") -> Any:
    """g·(Φ(x) + x·φ(x)) with its tangent g·φ(x)·(2 - x²)·t + (Φ(x) + x·φ(x))·dg, on the terms of `_gelu_dual`."""
    if approximate != "none":
        return NotImplemented
    (g, dg), (value, tangent) = fwAD.unpack_dual(grad), fwAD.unpack_dual(x)
    below, density = _normal(value)
    slope = below + value * density
    pushed = torch.zeros_like(g) if dg is None else slope * dg
    if tangent is not None:
        pushed = pushed + g * (density * (2 - value * value)) * tangent
    return fwAD.make_dual(g * slope, pushed)


def _normal(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the normal distribution's function Φ and density φ."""
    below = 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))
    return below, torch.exp(-0.5 * (x * x)) * (1 / math.sqrt(2 * math.pi))


def _same_shape(mode: FakeTensorMode, x: FakeTensor, *_: Any) -> FakeTensor:
    """Return a fake tensor like the argument."""
    return fake_like(mode, x, x.shape, x.dtype)


def relu(g: Builder, node: Node, x: Any) -> ir.Value:
    """Lower to Relu; of whole numbers to Max, as ONNX Runtime's Relu has none."""
    value = g.tensor(x)
    if g.dtypes[value].is_floating_point:
        return g.op("Relu", value)
    return g.op("Max", value, g.constant(0, g.dtypes[value]))


LOWERINGS: dict[Any, Lowering] = {
    aten.relu.default: relu, aten.sigmoid.default: unary("Sigmoid"), aten.tanh.default: unary("Tanh"),
    aten.gelu.default: gelu, aten.silu.default: silu, aten.elu.default: elu, aten.softplus.default: softplus,
    aten.mish.default: mish, aten.leaky_relu.default: leaky_relu, aten._prelu_kernel.default: prelu,
    aten.hardtanh.default: hardtanh, aten.hardsigmoid.default: hardsigmoid, aten.hardswish.default: hardswish,
    aten._softmax.default: softmax("Softmax"), aten._log_softmax.default: softmax("LogSoftmax"),
    aten.log_sigmoid_forward.default: logsigmoid,
}  # fmt: skip

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.hardshrink_backward.default: _shrink_backward,
    aten.softshrink_backward.default: _shrink_backward,
    aten.glu_jvp.default: _glu_jvp,
}

BATCHING: dict[Any, Callable[..., Any]] = pointwise(
    aten.elu_backward.default,
    aten.gelu_backward.default,
    aten.hardsigmoid_backward.default,
    aten.hardswish_backward.default,
    aten.hardtanh_backward.default,
    aten.leaky_relu_backward.default,
    aten.mish_backward.default,
    aten.silu_backward.default,
    aten.softplus_backward.default,
    aten.threshold_backward.default,
)

FORWARD_MODE: dict[Any, Callable[..., Any]] = {
    aten._softmax.default: _softmax_dual,
    aten._log_softmax.default: _log_softmax_dual,
    aten.gelu.default: _gelu_dual,
    aten.gelu_backward.default: _gelu_backward_dual,
}

FAKES: dict[Any, Callable[..., Any]] = {aten.relu.default: _same_shape}
