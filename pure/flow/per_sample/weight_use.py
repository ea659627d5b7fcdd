"""One call that is linear in its weight and its bias: what it reads, how it runs, and what its gradient looks like."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pure.flow.per_sample.outer_products import row_norms, row_slices
from pure.flow.shared.leaf_provenance import Origin

__all__ = ["Call", "Parameters", "Run", "WeightUse"]

Run = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


@dataclass(frozen=True, eq=False, kw_only=True)
class WeightUse:
    """How a call uses its weight and bias. Each kind of layer has a subclass.

    Attributes:
        weight: which leaf, or slice of one, is the weight; None if it is no parameter.
        bias: which is the bias, None if there is none or it is no parameter.
        shape: of the weight.
        run: (inputs, weight, bias) → outputs, linear in weight and bias together.
        rank: axes of one input of `run`, its batch axis not counted.
        channels: axis of the bias among the output's, from the end.
    """

    weight: Origin | None
    bias: Origin | None
    shape: tuple[int, ...]
    run: Run
    rank: int
    channels: int

    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """Return each sample's gradient w.r.t. the weight: (batch, *shape).

        Args:
            x: inputs (batch, …).
            g: gradient w.r.t. the outputs (batch, runs a sample, …).
        """
        raise NotImplementedError

    def norm(self, x: Tensor, g: Tensor, budget: float) -> Tensor:
        """Return the norm of each sample's gradient w.r.t. the weight: (batch,), float64; arguments as `gradient`."""
        return torch.cat([row_norms(self.gradient(x[rows], g[rows])) for rows in self.slices(x, budget)])

    def slices(self, x: Tensor, budget: float) -> list[slice]:
        """Cut the samples so that the gradients of one slice stay small."""
        return list(row_slices(len(x), math.prod(self.shape), x.device, budget))

    def bias_gradient(self, g: Tensor) -> Tensor:
        """Return each sample's gradient w.r.t. the bias: (batch, channels)."""
        g = g.movedim(self.channels, -1).flatten(1, -2)
        return g[:, 0] if g.shape[1] == 1 else g.sum(1)


def unchanged(y: Tensor) -> Tensor:
    """Return `y`."""
    return y


@dataclass(frozen=True, eq=False)
class Call:
    """A recognised call.

    Attributes:
        use: how it uses its weight.
        input: what it runs on.
        finish: what is left to do with the output.
    """

    use: WeightUse
    input: Tensor
    finish: Callable[[Tensor], Tensor] = unchanged


@dataclass(frozen=True, eq=False)
class Parameters:
    """The parameters, looked up by the tensors that stand for them inside the function.

    Attributes:
        origin: where such a tensor comes from, None if it is neither a leaf's stand-in nor a followed slice of one.
        leaves: {dotted name: the parameter itself}.
        transposes: {id: (transpose of a followed matrix, where the matrix comes from)}.
    """

    origin: Callable[[object], Origin | None]
    leaves: Mapping[str, Tensor]
    transposes: dict[int, tuple[Tensor, Origin]] = field(default_factory=dict)
    _slices: dict[Origin, Tensor] = field(default_factory=dict)

    def value(self, origin: Origin | None) -> Tensor | None:
        """Return the parameter, or slice of one; None for None."""
        return None if origin is None else self.known(origin)

    def known(self, origin: Origin) -> Tensor:
        """Return the parameter, or slice of one. A stacked leaf is taken apart once, which has one cheap gradient."""
        name, path = origin
        if not path:
            return self.leaves[name]
        if origin not in self._slices:
            parts = self.known(Origin(name, path[:-1])).unbind()
            self._slices.update({Origin(name, (*path[:-1], index)): part for index, part in enumerate(parts)})
        return self._slices[origin]

    def matrix(self, value: object) -> tuple[Origin, bool] | None:
        """Return where a matrix comes from, and whether `value` is its transpose."""
        if not isinstance(value, Tensor) or value.ndim != 2:
            return None
        origin = self.origin(value)
        if origin is not None:
            return origin, False
        found = self.transposes.get(id(value))
        return None if found is None else (found[1], True)
