"""Layer normalisation, the second derivative of which is written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pure.flow.hessian.stages import Stages

__all__ = ["layer_norm"]


def layer_norm(stages: Stages, x: Tensor, w: Tensor, b: Tensor | None, eps: float) -> Tensor:
    """Return x̂ w + b over the axes of w, with x̂ = (x − mean) / √(var + eps), and a graph for second derivatives.

    Args:
        stages: tells what a backward pass is run for, and whose gradients' values nobody reads.
        x: what is normalised.
        w: the gain.
        b: the bias.
        eps: added to the variance.
    """
    y: Tensor = _Out.apply(x, w, b, eps, stages, stages.owns(w, b))
    return y


def _back(g: Tensor, x: Tensor, mean: Tensor, r: Tensor, w: Tensor, wanted: Sequence[bool]) -> Sequence[Tensor | None]:
    """Return r P (g w), Σ g x̂ and Σ g, those that are wanted."""
    found: Sequence[Tensor | None] = torch.ops.aten.native_layer_norm_backward(
        g, x, list(w.shape), mean, r, w, w if wanted[2] else None, list(wanted)
    )
    return [gradient if one else None for gradient, one in zip(found, wanted, strict=True)]


def _turned(h: Tensor, x: Tensor, mean: Tensor, r: Tensor, w: Tensor) -> Tensor:
    """Return r P h over the axes of w. `torch.func.vmap` of PyTorch's kernel is wrong where it maps the gain too."""
    found: Tensor = torch.ops.aten.native_layer_norm_backward(
        h, x, list(w.shape), mean, r, None, None, [True, False, False]
    )[0]
    return found


class _Out(torch.autograd.Function):
    """The output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, eps: float, stages: Stages, owned: bool) -> Tensor:
        y, mean, r = torch.native_layer_norm(x, list(w.shape), w, b, eps)
        ctx.save_for_backward(x, w, mean, r)
        ctx.eps, ctx.stages, ctx.owned = eps, stages, owned
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, w, mean, r = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        if ctx.stages.recording():
            unread = ctx.owned and not ctx.stages.watched
            found = _Gradients.apply(g, x, w, mean, r, ctx.eps, wanted, unread)
        else:
            found = _back(g, x, mean, r, w, wanted)
        return (*found, None, None, None)


class _Gradients(torch.autograd.Function):
    """G = r P (g w), Σ g x̂ and Σ g, with P = 1 − mean − x̂ mean(x̂ ·), which is symmetric.

    Of ⟨u, G⟩ + ⟨v, Σ g x̂⟩ + ⟨c, Σ g⟩, with U = r P u, the derivatives are
        by g: v x̂ + c + w U,
        by x: r P (g v) − r (mean(u G) x̂ + mean(u x̂) G + mean(g w x̂) U),
        by w: Σ g U.
    The derivative of x̂ along d is r P d, and that of r is −r² mean(x̂ d).
    """

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        w: Tensor,
        mean: Tensor,
        r: Tensor,
        eps: float,
        wanted: tuple[bool, bool, bool],
        unread: bool,
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        by_x, by_w, by_b = _back(g, x, mean, r, w, (wanted[0], wanted[1] and not unread, wanted[2] and not unread))
        if unread:
            nothing = w.new_zeros(())
            by_w, by_b = (nothing.expand(w.shape) if one else None for one in wanted[1:])
        hat = torch.native_layer_norm(x, list(w.shape), None, None, eps)[0]
        ctx.save_for_backward(g, x, w, mean, r, hat, by_x, _mean(g * w, hat, w) if wanted[0] else None)
        return by_x, by_w, by_b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None, c: Tensor | None) -> tuple[Any, ...]:
        g, x, w, mean, r, hat, slope, aligned = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        by_g = by_x = by_w = None
        if v is not None:
            by_g = hat * v if c is None else torch.addcmul(c, hat, v)
            by_x = _turned(g * v, x, mean, r, w) if wanted[1] else None
        elif c is not None:
            by_g = c.expand(g.shape)
        if u is not None:
            turned = _turned(u, x, mean, r, w)
            by_g = turned * w if by_g is None else torch.addcmul(by_g, turned, w)
            by_w = (g * turned).reshape(-1, *w.shape).sum(0) if wanted[2] else None
            if wanted[1]:
                bent = torch.addcmul(turned * aligned, hat, _mean(u, slope, w))
                bent = torch.addcmul(bent, slope, _mean(u, hat, w)) * r
                by_x = -bent if by_x is None else by_x - bent
        return by_g, by_x, by_w, None, None, None, None, None


def _mean(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """Return the mean of a b over the axes of w."""
    return (a * b).mean(list(range(-w.ndim, 0)), keepdim=True)
