"""Reversible blocks: the input is recomputed from the output instead of stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pure.block import EMPTY, Block, Extras, Params, State
from pure.compose import Sequential
from pure.composite import Composite, Run
from pure.errors import ShapeError, UnsupportedError
from pure.leaf import describe
from pure.tags import tag

__all__ = ["Invertible", "Reversible", "inverse"]


@dataclass(frozen=True, repr=False)
class Invertible(Composite):
    """A composite whose input can be recomputed from its output with the same children."""

    def inverse(self, params: Params, y: Any, state: State = EMPTY, extras: Extras = EMPTY) -> Any:
        """Return the x with `block(params, x, state, extras) = y`, up to rounding."""
        raise NotImplementedError(f"{type(self).__name__} defines no inverse")

    def _evaluating(self, params: Params, state: State, extras: Extras) -> Run:
        """Return what runs a child in evaluation."""
        return self.runner(params, state, extras)


@dataclass(frozen=True, repr=False)
class Reversible(Invertible):
    """y₁ = x₁ + f(x₂), y₂ = x₂ + g(y₁), with x = [x₁, x₂] cut in half along an axis.

    `block.inverse(params, y, state, extras)` gives x back: x₂ = y₂ − g(y₁), x₁ = y₁ − f(x₂). Autograd stores what the
    branches need, as for any block.

    Tags: "branch[f]" (f(x₂)), "branch[g]" (g(y₁)), "stream" (y).

    Args:
        f: keeps the shape of half the input.
        g: keeps the shape of half the input.
        axis: the axis that is cut: 1 for channels of (batch, channels, …), −1 for features.

    Raises:
        ShapeError: an odd number of channels, or a branch that changes the shape.

    Source: Gomez et al. 2017 (1707.04585), figure 2.

    Example:
        >>> from pure import Linear
        >>> block = Reversible(Linear(2, 2), Linear(2, 2))
        >>> params, _ = block.init(torch.Generator().manual_seed(0))
        >>> x = torch.ones(1, 4)
        >>> (block.inverse(params, block(params, x)) - x).abs().max() < 1e-6
        tensor(True)
    """

    f: Block
    g: Block
    axis: int = 1

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return [y₁, y₂]."""
        x1, x2 = self._halves(x)
        y1 = x1 + self._branch(run, "f", x2)
        y2 = x2 + self._branch(run, "g", y1)
        return tag(torch.cat([y1, y2], self.axis), "stream")

    def inverse(self, params: Params, y: Any, state: State = EMPTY, extras: Extras = EMPTY) -> Any:
        """Return [x₁, x₂]."""
        run = self._evaluating(params, state, extras)
        y1, y2 = self._halves(y)
        x2 = y2 - self._branch(run, "g", y1)
        x1 = y1 - self._branch(run, "f", x2)
        return torch.cat([x1, x2], self.axis)

    def _halves(self, x: Any) -> tuple[Any, Any]:
        if not -x.ndim <= self.axis < x.ndim or x.shape[self.axis] % 2:
            raise ShapeError(
                f"{self}: input {describe(x)}, expected an even size on axis {self.axis}: pad it, or cut another axis"
            )
        first, second = x.chunk(2, self.axis)
        return first, second

    def _branch(self, run: Run, name: str, x: Any) -> Any:
        value = tag(run(name, x), f"branch[{name}]", kind="branch")
        if value.shape != x.shape:
            raise ShapeError(
                f"Reversible {name}: {tuple(x.shape)} becomes {tuple(value.shape)}: expected one shape: change width "
                "or resolution between reversible blocks"
            )
        return value


def inverse(block: Block, params: Params, y: Any, state: State = EMPTY, extras: Extras = EMPTY) -> Any:
    """Return the x with `block(params, x, state, extras) = y`, for invertible blocks.

    Args:
        block: `Reversible`, `ReversibleStack`, `Momentum`, or a `Sequential` of such.
        params: the block's.
        y: its output; (x, v) for `Momentum`.
        state: the block's.
        extras: what the block was called with.

    Raises:
        UnsupportedError: a block that has no inverse.

    Example:
        >>> from pure import Linear
        >>> net = Sequential(*[Reversible(Linear(2, 2), Linear(2, 2))] * 3)
        >>> params, _ = net.init(torch.Generator().manual_seed(0))
        >>> x = torch.ones(1, 4)
        >>> (inverse(net, params, net(params, x)) - x).abs().max() < 1e-5
        tensor(True)
    """
    if isinstance(block, Sequential):
        for name, child in reversed(block.children().items()):
            y = inverse(child, params.get(name, EMPTY), y, state.get(name, EMPTY), extras)
        return y
    if not isinstance(block, Invertible):
        raise UnsupportedError(
            f"inverse of {block}: only Reversible, ReversibleStack, Momentum and a Sequential of such have one"
        )
    return block.inverse(params, y, state, extras)
