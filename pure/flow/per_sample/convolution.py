"""Convolutions and transposed ones: per-sample gradients of their weights, and norms by Gram matrices of pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.flow.per_sample.outer_products import FLOAT64_COST, gram, row_norms, row_slices, scaled
from pure.flow.per_sample.weight_use import Call, Parameters, Run, WeightUse
from pure.layers.alignment import widen

__all__ = ["CONVOLUTIONS", "Convolution", "Geometry", "convolution_norm", "unfolded", "weight_gradient"]


@dataclass(frozen=True)
class Geometry:
    """The numbers of one convolution, one an axis of space.

    Attributes:
        kernel: size of the kernel.
        stride: steps between windows.
        pads: zeros before and behind.
        dilation: steps inside a window.
        groups: into how many groups the channels are split.
        transposed: whether it is the transposed convolution, from the windows back to the pixels.
        output_padding: of the transposed one.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool = False
    output_padding: tuple[int, ...] = ()


def _one_an_axis(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """Return one number an axis."""
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * dims if len(sizes) == 1 else sizes


def _pads(
    padding: int | str | Sequence[int], kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """Return the zeros before and behind each spatial axis; an odd rest of "same" goes behind, as in PyTorch."""
    if not isinstance(padding, str):
        return tuple((pad, pad) for pad in _one_an_axis(padding, len(kernel)))
    totals = [gap * (size - 1) if padding == "same" else 0 for size, gap in zip(kernel, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def weight_gradient(x: Tensor, g: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Return the gradient w.r.t. the weight of one convolution, at least in float32.

    Args:
        x: its inputs (n, channels, *space).
        g: gradient w.r.t. its outputs (n, channels, *space).
        weight: of the shape that is wanted; its values do not matter.
        geometry: the convolution's.
    """
    dims = len(geometry.kernel)
    dtype = torch.promote_types(widen(x).dtype, widen(g).dtype)
    x, g = x.to(dtype), g.to(dtype)
    padding = [before for before, _ in geometry.pads]
    if any(before != behind for before, behind in geometry.pads):
        x, padding = F.pad(x, _flat(geometry.pads)), [0] * dims
    gradient: Tensor = torch.ops.aten.convolution_backward(
        g,
        x,
        weight.to(dtype),
        None,
        list(geometry.stride),
        padding,
        list(geometry.dilation),
        geometry.transposed,
        list(geometry.output_padding or (0,) * dims),
        geometry.groups,
        [False, True, False],
    )[1]
    return gradient


def convolution_norm(x: Tensor, g: Tensor, weight: Tensor, geometry: Geometry, budget: float) -> Tensor:
    """Return the norm of each sample's gradient w.r.t. the weight of one convolution: (batch,), float64.

    By Gram matrices where they are the smaller computation: ⟨window s, window t⟩ is a sum over the kernel of
    ⟨pixel s + δ, pixel t + δ⟩, so that no window is ever unfolded. Otherwise by the gradient of one sample at a time.

    Args:
        x: inputs (batch, images, channels, *space).
        g: gradient w.r.t. the outputs (batch, images, channels, *space).
        weight: of the shape that is wanted.
        geometry: the convolution's.
        budget: memory for Gram matrices in bytes, away from the CPU.

    Source: Rochette et al. 2019 (1912.06015) for the gradients; Bu et al. 2022 (2205.10683) for the choice.
    """
    padded = math.prod(size + sum(pad) for size, pad in zip(x.shape[3:], geometry.pads, strict=True))
    pixels, positions = math.prod(x.shape[3:]), math.prod(g.shape[3:])
    direct = positions * weight.numel()
    by_gram = FLOAT64_COST * (pixels**2 * x.shape[2] + positions**2 * g.shape[2])
    by_gram += 4 * padded**2 * geometry.groups * sum(geometry.kernel)
    norms = x.new_zeros(len(x), dtype=torch.float64)
    if geometry.transposed or x.shape[1] != 1 or direct <= by_gram:
        for row in range(len(x)):
            unit_x, x_scale = scaled(x[row : row + 1])
            unit_g, g_scale = scaled(g[row : row + 1])
            gradient = weight_gradient(unit_x[0], unit_g[0], weight, geometry)
            norms[row : row + 1] = row_norms(gradient[None]) * x_scale * g_scale
        return norms
    each = geometry.groups * (2 * padded**2 + 2 * positions**2) + x[0].numel() + g[0].numel()
    for rows in row_slices(len(x), each, x.device, budget):
        unit_x, x_scale = scaled(x[rows, 0])
        unit_g, g_scale = scaled(g[rows, 0])
        signals = gram(unit_g.flatten(2).unflatten(1, (geometry.groups, -1)).permute(0, 3, 1, 2))
        squares = (window_gram(unit_x, geometry) * signals).sum(dim=(1, 2, 3))
        norms[rows] = squares.clamp_min(0).sqrt() * x_scale * g_scale
    return norms


def window_gram(x: Tensor, geometry: Geometry) -> Tensor:
    """Return ⟨window s, window t⟩ of (batch, channels, *space) in float64: (batch, groups, positions, positions).

    The Gram matrix of the pixels is shifted along both of its pixel axes at once and added up, one axis of space after
    the other.
    """
    batch, dims, space = len(x), len(geometry.kernel), x.shape[2:]
    pixels = gram(x.flatten(2).unflatten(1, (geometry.groups, -1)).permute(0, 3, 1, 2))
    grid = pixels.reshape(batch * geometry.groups, *space, *space)
    grid = F.pad(grid, _flat((*geometry.pads, *geometry.pads))) if any(map(any, geometry.pads)) else grid
    for axis, (size, step, gap) in enumerate(
        zip(geometry.kernel, geometry.stride, geometry.dilation, strict=True), start=1
    ):
        count = (grid.shape[axis] - gap * (size - 1) - 1) // step + 1
        reach = (count - 1) * step + 1
        shifted = [
            grid.narrow(axis, start, reach).narrow(axis + dims, start, reach) for start in range(0, gap * size, gap)
        ]
        if step > 1:
            picked = torch.arange(0, reach, step, device=x.device)
            shifted = [part.index_select(axis, picked).index_select(axis + dims, picked) for part in shifted]
        grid = shifted[0].clone() if len(shifted) > 1 else shifted[0]
        for part in shifted[1:]:
            grid += part
    positions = math.prod(grid.shape[1 : 1 + dims])
    return grid.reshape(batch, geometry.groups, positions, positions)


def _flat(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Return the zeros in the order of `F.pad`: the last axis first."""
    return [pad for pair in reversed(pairs) for pad in pair]


def unfolded(x: Tensor, geometry: Geometry) -> Tensor:
    """Return what each output position of a convolution sees, for any number of spatial axes.

    Args:
        x: (n, channels, *space).
        geometry: the convolution's.

    Returns:
        (n, positions, groups, channels / groups · kernel values), the last axis in the order of the weight's.
    """
    dims = len(geometry.kernel)
    x = F.pad(x, _flat(geometry.pads))
    windows = zip(geometry.kernel, geometry.stride, geometry.dilation, strict=True)
    for axis, (size, step, gap) in enumerate(windows, start=2):
        x = x.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]
    x = x.unflatten(1, (geometry.groups, -1))  # (n, groups, channels / groups, *positions, *kernel)
    positions, window = range(3, 3 + dims), range(3 + dims, 3 + 2 * dims)
    x = x.permute(0, *positions, 1, 2, *window)
    return x.flatten(2 + dims).flatten(1, dims)


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(WeightUse):
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


def _convolution(
    parameters: Parameters,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    dims: int,
    conv: Callable[..., Tensor],
) -> Call | None:
    """F.conv1d, F.conv2d and F.conv3d."""
    kernel, gaps = tuple(weight.shape[2:]), _one_an_axis(dilation, dims)
    geometry = Geometry(kernel, _one_an_axis(stride, dims), _pads(padding, kernel, gaps), gaps, groups)
    run = lambda x, w, b: conv(x, w, b, stride, padding, dilation, groups)  # noqa: E731
    return _convolved(parameters, input, weight, bias, dims, geometry, run)


def _transposed_convolution(
    parameters: Parameters,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    dims: int,
    conv: Callable[..., Tensor],
) -> Call | None:
    """F.conv_transpose1d, 2d and 3d."""
    kernel, gaps, more = tuple(weight.shape[2:]), _one_an_axis(dilation, dims), _one_an_axis(output_padding, dims)
    zeros = _pads(padding, kernel, gaps)
    geometry = Geometry(kernel, _one_an_axis(stride, dims), zeros, gaps, groups, True, more)
    run = lambda x, w, b: conv(x, w, b, stride, padding, output_padding, groups, dilation)  # noqa: E731
    return _convolved(parameters, input, weight, bias, dims, geometry, run)


def _convolved(
    parameters: Parameters, input: Tensor, weight: Tensor, bias: Tensor | None, dims: int, geometry: Geometry, run: Run
) -> Call | None:
    origin, bias_origin = parameters.origin(weight), parameters.origin(bias)
    if origin is None or weight.ndim != dims + 2 or input.ndim not in (dims + 1, dims + 2):
        return None
    constant = parameters.known(origin)
    use = Convolution(
        weight=origin,
        bias=bias_origin,
        shape=tuple(constant.shape),
        run=run,
        rank=dims + 1,
        channels=-1 - dims,
        geometry=geometry,
        constant=constant.detach(),
    )
    if bias is not None and bias_origin is None:
        return Call(use, input, lambda y: y + bias.reshape(-1, *(1,) * dims))
    return Call(use, input)


CONVOLUTIONS: dict[Any, Callable[..., Call | None]] = {
    **{conv: partial(_convolution, dims=n, conv=conv) for n, conv in enumerate((F.conv1d, F.conv2d, F.conv3d), 1)},
    **{
        conv: partial(_transposed_convolution, dims=n, conv=conv)
        for n, conv in enumerate((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), 1)
    },
}
"""Function → what reads its arguments; None from it means that this use is not known."""
