"""Layers that are linear in their input and in their weight, differentiated twice with first derivatives alone.

Such a layer has three maps: the output, the input's gradient and the weight's gradient. Each is linear in each of two
tensors, and the derivatives of one are the other two; so a second derivative runs the same kernels as a first. What
autograd makes of a convolution or of batch normalisation by itself takes more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pure.flow.hessian.stages import Stages
from pure.flow.per_sample.conv_windows import pads, spread

__all__ = ["ChannelScale", "Convolution", "Linear", "Maps", "bilinear"]

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class Maps(Protocol):
    """The three maps of a layer."""

    def out(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """Return the output."""

    def back(self, g: Tensor, x: Tensor, w: Tensor, wanted: Sequence[bool]) -> Gradients:
        """Return the gradients by input, weight and bias, those that are wanted."""

    def linear(self) -> Maps:
        """Return the same layer without what is added to its input."""

    def spread(self, c: Tensor, g: Tensor) -> Tensor:
        """Return a bias in the shape of the output."""


@dataclass(frozen=True)
class Linear:
    """x Wᵀ + b."""

    def out(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """Return the output."""
        return F.linear(x, w, b)

    def back(self, g: Tensor, x: Tensor, w: Tensor, wanted: Sequence[bool]) -> Gradients:
        """Return the gradients that are wanted."""
        if not any(wanted[1:]):
            return g @ w, None, None
        rows = g.reshape(-1, g.shape[-1])
        return (
            g @ w if wanted[0] else None,
            rows.mT @ x.reshape(-1, x.shape[-1]) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
        )

    def linear(self) -> Linear:
        """Return itself: nothing is added to the input."""
        return self

    def spread(self, c: Tensor, g: Tensor) -> Tensor:
        """Return a bias in the shape of the output."""
        return c.expand(g.shape)


@dataclass(frozen=True)
class Convolution:
    """A convolution with the same padding on both sides."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    @classmethod
    def given(cls, w: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Convolution | None:
        """Return it from the arguments of F.conv2d and its like; None for padding that differs before and behind."""
        kernel = tuple(w.shape[2:])
        gaps = spread(dilation, len(kernel))
        around = pads(padding, kernel, gaps)
        if any(before != behind for before, behind in around):
            return None
        return cls(spread(stride, len(kernel)), [before for before, _ in around], gaps, groups)

    def out(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """Return the output."""
        return torch.convolution(
            x, w, b, self.stride, self.padding, self.dilation, False, [0] * len(self.stride), self.groups
        )

    def back(self, g: Tensor, x: Tensor, w: Tensor, wanted: Sequence[bool]) -> Gradients:
        """Return the gradients that are wanted."""
        sizes, turned, rest = [w.shape[0]], False, [0] * len(self.stride)
        found: Gradients = torch.ops.aten.convolution_backward(
            g, x, w, sizes, self.stride, self.padding, self.dilation, turned, rest, self.groups, list(wanted)
        )
        return found

    def linear(self) -> Convolution:
        """Return itself: nothing is added to the input."""
        return self

    def spread(self, c: Tensor, g: Tensor) -> Tensor:
        """Return a bias in the shape of the output."""
        return _along_channels(c, g)


@dataclass(frozen=True, eq=False)
class ChannelScale:
    """(x − mean) / √(var + eps) · w + b along axis 1: batch normalisation by statistics that are given."""

    mean: Tensor
    var: Tensor
    eps: float

    def out(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """Return the output."""
        return F.batch_norm(x, self.mean, self.var, w, b, False, 0.0, self.eps)

    def back(self, g: Tensor, x: Tensor, w: Tensor, wanted: Sequence[bool]) -> Gradients:
        """Return the gradients that are wanted."""
        r = (self.var + self.eps).rsqrt()
        if not any(wanted[1:]):
            return g * (w * r).reshape(-1, *[1] * (x.ndim - 2)), None, None
        found: Gradients = torch.ops.aten.native_batch_norm_backward(
            g, x, w, self.mean, self.var, self.mean, r, False, self.eps, list(wanted)
        )
        return found

    def linear(self) -> ChannelScale:
        """Return the scaling without the mean."""
        return replace(self, mean=torch.zeros_like(self.mean))

    def spread(self, c: Tensor, g: Tensor) -> Tensor:
        """Return a bias in the shape of the output."""
        return _along_channels(c, g)


def _along_channels(c: Tensor, g: Tensor) -> Tensor:
    return c.reshape(-1, *[1] * (g.ndim - 2)).expand(g.shape)


def bilinear(maps: Maps, stages: Stages, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Return the layer's output, with a graph for second derivatives.

    Args:
        maps: the layer.
        stages: tells whose gradients' values nobody reads.
        x: its input.
        w: its weight.
        b: its bias.
    """
    y: Tensor = _Out.apply(x, w, b, maps, stages, stages.owns(w, b))
    return y


class _Out(torch.autograd.Function):
    """The output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, maps: Maps, stages: Stages, owned: bool) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.maps, ctx.stages, ctx.owned = maps, stages, owned
        return maps.out(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        wanted = ctx.needs_input_grad[:3]
        x, w = ctx.saved_tensors
        if ctx.stages.recording():
            found = _Gradients.apply(g, x, w, ctx.maps, wanted, ctx.owned and not ctx.stages.watched)
        else:
            found = ctx.maps.back(g, x, w, wanted)
        return (*found, None, None, None)


class _Gradients(torch.autograd.Function):
    """The gradients by input, weight and bias.

    Where nobody reads those by weight and bias, they are not computed, and zeros take their place.
    """

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, w: Tensor, maps: Maps, wanted: tuple[bool, bool, bool], unread: bool
    ) -> Gradients:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, w)
        ctx.maps = maps
        if not unread:
            return maps.back(g, x, w, wanted)
        by_x = maps.back(g, x, w, (True, False, False))[0] if wanted[0] else None
        nothing = w.new_zeros(())
        return by_x, nothing.expand(w.shape) if wanted[1] else None, nothing.expand(len(w)) if wanted[2] else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None, c: Tensor | None) -> tuple[Any, ...]:
        """Return the derivatives by g, x and w of ⟨u, by input⟩ + ⟨v, by weight⟩ + ⟨c, by bias⟩."""
        g, x, w = ctx.saved_tensors
        maps: Maps = ctx.maps
        wanted = ctx.needs_input_grad
        by_g = by_x = by_w = None
        if u is not None:
            scaled = maps.linear()
            by_g = scaled.out(u, w, None)
            by_w = scaled.back(g, u, w, (False, True, False))[1] if wanted[2] else None
        if v is not None:
            more = maps.out(x, v, c)
            by_g = more if by_g is None else by_g + more
            by_x = maps.back(g, x, v, (True, False, False))[0] if wanted[1] else None
        elif c is not None:
            more = maps.spread(c, g)
            by_g = more if by_g is None else by_g + more
        return by_g, by_x, by_w, None, None, None
