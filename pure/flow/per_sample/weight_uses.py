"""One use of a parameter inside a per-sample loss: what it read, and what the gradient by its output says.

A use runs on the samples' own tensors with the parameter as a constant. From its inputs and the gradient by its output
it gives each sample's gradient by the parameter, or that gradient's norm without forming it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import Node

from pure.flow.per_sample.conv_windows import Geometry, convolution_norm, weight_gradient
from pure.flow.per_sample.outer_products import outer_norm, outer_sum, row_norms, row_slices, widened
from pure.flow.shared.leaf_provenance import Origin

__all__ = ["Affine", "Convolution", "Lookup", "Product", "Use", "lookup_norm"]


@dataclass(eq=False, kw_only=True)
class Use:
    """One call of an operation that is linear in its weight and its bias.

    Attributes:
        weight: which leaf, or slice of one, is the weight; None if it is no parameter.
        bias: which is the bias, None if there is none or it is no parameter.
        shape: of the weight.
        run: the operation on a batch of inputs, the weight and bias constants.
        rank: axes of one input of `run`, its batch axis not counted.
        channels: axis of the bias among the output's, from the end.
        inputs: (batch, …), set once it has run, as are the next three; None again once its gradient is known.
        version: of the inputs; another one later says that they were changed in place.
        node: the node of the graph that `run`'s output came from; a later change in place leaves it as it is.
        number: which of the node's outputs that is.
    """

    weight: Origin | None
    bias: Origin | None
    shape: tuple[int, ...]
    run: Callable[[Tensor], Tensor]
    rank: int
    channels: int
    inputs: Tensor | None = None
    version: int = 0
    node: Node | None = field(default=None, repr=False)
    number: int = 0

    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """Return each sample's gradient by the weight: (batch, *shape).

        Args:
            x: inputs (batch, …).
            g: gradient by the outputs (batch, runs a sample, …).
        """
        raise NotImplementedError

    def norm(self, x: Tensor, g: Tensor, budget: float) -> Tensor:
        """Return the norm of each sample's gradient by the weight in float64: (batch,); arguments as `gradient`."""
        return torch.cat([row_norms(self.gradient(x[rows], g[rows])) for rows in self.slices(x, budget)])

    def slices(self, x: Tensor, budget: float) -> list[slice]:
        """Cut the samples so that the gradients of one slice stay small."""
        return list(row_slices(len(x), math.prod(self.shape), x.device, budget))

    def bias_gradient(self, g: Tensor) -> Tensor:
        """Return each sample's gradient by the bias: (batch, channels)."""
        g = g.movedim(self.channels, -1).flatten(1, -2)
        return g[:, 0] if g.shape[1] == 1 else g.sum(1)


@dataclass(eq=False, kw_only=True)
class Product(Use):
    """A product with a matrix: x Wᵀ, or x W where it is `turned`. The weight may have more axes than the matrix."""

    turned: bool = False

    def factors(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return l (batch, time, rows) and r (batch, time, columns) with Σ_t l_t ⊗ r_t the gradient by the matrix."""
        x = x.reshape(len(x), -1, x.shape[-1])
        return (x, g) if self.turned else (g, x)

    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """Return Σ_t l_t ⊗ r_t."""
        left, right = self.factors(x, g)
        dtype = torch.promote_types(left.dtype, right.dtype)
        return outer_sum(right[:, :, None].to(dtype), left[:, :, None].to(dtype)).reshape(-1, *self.shape)

    def norm(self, x: Tensor, g: Tensor, budget: float) -> Tensor:
        """Return its norm, by whichever road is the smaller computation."""
        left, right = self.factors(x, g)
        return outer_norm(right[:, :, None], left[:, :, None], budget)


@dataclass(eq=False, kw_only=True)
class Lookup(Use):
    """Rows of a table by integer index.

    Attributes:
        padding: the index whose row has no gradient.
    """

    padding: int | None = None

    def rows(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return the indices (batch, time) from 0 up, and the gradients (batch, time, values), 0 where padded."""
        index = x.reshape(len(x), -1).long() % self.shape[0]
        signals = widened(g.reshape(len(x), index.shape[1], -1))
        if self.padding is not None:
            signals = signals.masked_fill((index == self.padding)[..., None], 0)
        return index, signals

    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """Return the sums of the gradients that belong to each row."""
        index, signals = self.rows(x, g)
        keys = index + torch.arange(len(x), device=index.device)[:, None] * self.shape[0]
        whole = signals.new_zeros(len(x) * self.shape[0], signals.shape[2])
        return whole.index_add_(0, keys.flatten(), signals.flatten(0, 1)).reshape(len(x), *self.shape)

    def norm(self, x: Tensor, g: Tensor, budget: float) -> Tensor:
        """Return its norm from the rows that were looked up alone."""
        return lookup_norm(*self.rows(x, g))


def lookup_norm(index: Tensor, signals: Tensor) -> Tensor:
    """Return ‖Σ_t e(index_t) ⊗ g_t‖ of (batch, time) and (batch, time, values): gradients of one row add up first."""
    batch = len(index)
    owner = torch.arange(batch, device=index.device)[:, None]
    count = int(index.max()) + 1 if index.numel() else 1
    keys, place = torch.unique((index + owner * count).flatten(), return_inverse=True)
    sums = signals.new_zeros(len(keys), signals.shape[2]).index_add_(0, place, signals.flatten(0, 1))
    norms = row_norms(sums)
    sample = keys // count
    largest = norms.new_zeros(batch).scatter_reduce_(0, sample, norms, "amax")
    scale = torch.where(largest > 0, largest, 1.0)
    squares = norms.new_zeros(batch).index_add_(0, sample, (norms / scale[sample]).square())
    return squares.sqrt() * scale


@dataclass(eq=False, kw_only=True)
class Convolution(Use):
    """A convolution, or a transposed one.

    Attributes:
        geometry: its numbers.
        constant: the weight's values; only their shape and dtype matter here.
    """

    geometry: Geometry
    constant: Tensor = field(repr=False)

    def images(self, x: Tensor) -> Tensor:
        """Return the inputs as (batch, images, channels, *space)."""
        return x.reshape(len(x), -1, *x.shape[x.ndim - self.rank :])

    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """Return the weight's gradient of one sample after the other."""
        pairs = zip(self.images(x), g, strict=True)
        return torch.stack([weight_gradient(a, b, self.constant, self.geometry) for a, b in pairs])

    def norm(self, x: Tensor, g: Tensor, budget: float) -> Tensor:
        """Return its norm, by Gram matrices of pixels or one sample at a time."""
        return convolution_norm(self.images(x), g, self.constant, self.geometry, budget)


@dataclass(eq=False, kw_only=True)
class Affine(Use):
    """The weight and bias behind a normalisation, y = x̂ ⊙ weight + bias.

    Attributes:
        normalise: x → x̂.
        trailing: whether weight and bias run along the trailing axes, as in LayerNorm, not along the channels.
    """

    normalise: Callable[[Tensor], Tensor]
    trailing: bool

    def summed(self, v: Tensor) -> Tensor:
        """Return the sums of (batch, runs a sample, …) over all but the batch's and the weight's axes."""
        axes = (1,) if self.trailing else (1, *range(3, v.ndim))
        return v.squeeze(1) if axes == (1,) and v.shape[1] == 1 else v.sum(axes)

    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """Return the sums of g ⊙ x̂."""
        parts = []
        for rows in row_slices(len(x), x[0].numel(), x.device):
            part = x[rows]
            normal = self.normalise(part.reshape(-1, *part.shape[part.ndim - self.rank :]))
            parts.append(self.summed(normal.reshape(g[rows].shape) * g[rows]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def bias_gradient(self, g: Tensor) -> Tensor:
        """Return the sums of g."""
        return self.summed(g)
