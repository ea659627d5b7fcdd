"""Activations that are computed together with their first two derivatives.

The gradient is then a product, and so is everything in its derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pure.flow.hessian.stages import Stages

__all__ = ["bent", "gelu", "gelu_tanh", "kinked"]

Bend = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]

CUBIC = 0.044715
"""The coefficient in the tanh form of GELU; Hendrycks and Gimpel 2016, section 2."""


def gelu(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x Φ, Φ + x φ and (2 − x²) φ, with Φ the normal distribution and φ its density."""
    square = x * x
    below = (x * math.sqrt(0.5)).erf_().mul_(0.5).add_(0.5)
    density = (square * -0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
    return x * below, torch.addcmul(below, x, density), square.neg_().add_(2).mul_(density)


def gelu_tanh(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return y = x h, y' = h + y a and y'' = a (h + y' − y h b') + y (1 − h) b''.

    Here h = (1 + tanh(b / 2)) / 2 is the logistic function of b = k (x + c x³), and a = (1 − h) b'.
    """
    k = 2 * math.sqrt(2 / math.pi)
    square = x * x
    h = (square * (k * CUBIC)).add_(k).mul_(x).sigmoid_()
    slope = square.mul_(3 * k * CUBIC).add_(k)
    y, rest = x * h, 1 - h
    a = rest * slope
    first = torch.addcmul(h, y, a)
    second = (h + first).addcmul_(h.mul_(y), slope, value=-1).mul_(a)
    return y, first, second.addcmul_(rest.mul_(x), y, value=6 * k * CUBIC)


def bent(bend: Bend, stages: Stages, x: Tensor) -> Tensor:
    """Return an activation's output, with a graph for second derivatives.

    Args:
        bend: returns the output and two derivatives.
        stages: tells what a backward pass is run for.
        x: its input.
    """
    y: Tensor = _Bent.apply(x, bend, stages)
    return y


class _Bent(torch.autograd.Function):
    """f(x); its derivative is f'(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bend: Bend, stages: Stages) -> Tensor:
        y, first, second = bend(x)
        ctx.save_for_backward(x, first, second)
        ctx.stages = stages
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, first, second = ctx.saved_tensors
        return _Slope.apply(g, x, first, second) if ctx.stages.recording() else g * first, None, None


class _Slope(torch.autograd.Function):
    """g f'(x); its derivatives are f'(x) and g f''(x)."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(g, first, second)
        return g * first

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor) -> tuple[Any, ...]:
        g, first, second = ctx.saved_tensors
        return u * first, u * (g * second), None, None


def kinked(x: Tensor) -> Tensor:
    """Return relu(x), without the second derivative that is zero."""
    y: Tensor = _Kinked.apply(x)
    return y


class _Kinked(torch.autograd.Function):
    """relu(x); where its output is above 0, the gradient passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.relu(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        found: Tensor = torch.ops.aten.threshold_backward(g, y.detach(), 0)
        return found
