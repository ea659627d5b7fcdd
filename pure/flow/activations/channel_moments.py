"""Means and variances of an activation's channels, as they are and on a logarithmic scale, where nothing overflows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pure.errors import ArgumentError
from pure.flow.shared.over_ranks import ONE_PROCESS, Whole

__all__ = ["Moments", "channel_moments", "log_moments"]


@dataclass(frozen=True)
class Moments:
    """The size of an activation. All are log10, −inf for zero.

    Attributes:
        log10_largest: of the largest absolute value.
        log10_second_moment: of the mean of the squares; the sum of the next two.
        log10_squared_mean: of the squared mean of each channel, averaged over channels.
        log10_variance: of the variance of each channel over batch and space, averaged over channels.
    """

    log10_largest: float
    log10_second_moment: float
    log10_squared_mean: float
    log10_variance: float

    @property
    def finite(self) -> bool:
        """Whether every value was a finite number."""
        return self.log10_largest < math.inf  # NaN compares false


def channel_moments(value: Tensor, channel_axis: int | None = None, whole: Whole = ONE_PROCESS) -> tuple[float, float]:
    """Return the average channel squared mean and the average channel variance, taken in float64 about the mean.

    Args:
        value: (batch, channels, …), or (batch, positions, channels).
        channel_axis: where the channels are; None for the last axis of three, and axis 1 of everything else.
        whole: the ranks that each hold a part of the batch.

    Raises:
        ArgumentError: the value has no such axis.

    Source: Brock et al. 2021 (2101.08692), section 2, signal propagation plots.

    >>> channel_moments(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    (2.0, 0.5)
    """
    axis = (2 if value.ndim == 3 else 1) if channel_axis is None else channel_axis
    if value.ndim < 2 or not -value.ndim <= axis < value.ndim or axis % value.ndim == 0:
        raise ArgumentError(f"signal: channel_axis={axis} of a value of shape {tuple(value.shape)}: batch is on axis 0")
    others = [other for other in range(value.ndim) if other != axis % value.ndim]
    wide = value.detach().double()
    if whole.ranks is None:
        variance, mean = torch.var_mean(wide, others, correction=0)
    else:
        each = wide.numel() // wide.shape[axis]
        count = sum(whole.numbers(each, "how many values a channel has"))
        (total,) = whole.total([wide.sum(others, keepdim=True)], "channel sums")
        (squares,) = whole.total([(wide - total / count).square().sum(others)], "channel squares")
        mean, variance = total.flatten() / count, squares / count
    squared_mean, variance = torch.stack([mean.square().mean(), variance.mean()]).tolist()
    return squared_mean, variance


def log_moments(value: Tensor) -> Moments:
    """Return the moments of an activation: axis 1 holds its channels, of (batch, tokens, features) the last axis.

    Args:
        value: batch first.

    Source: Brock et al. 2021 (2101.08692), section 2, signal propagation plots.

    Example:
        >>> found = log_moments(torch.tensor([[1e200], [3e200]], dtype=torch.float64))
        >>> round(found.log10_second_moment, 6), round(found.log10_squared_mean, 6), round(found.log10_variance, 6)
        (400.69897, 400.60206, 400.0)
    """
    flat = value.detach().double()
    if flat.numel() == 0:
        return Moments(*[-math.inf] * 4)
    flat = flat.reshape(1, -1) if flat.ndim < 2 else flat
    largest = flat.abs().amax().item()
    if largest == 0:
        return Moments(*[-math.inf] * 4)
    if not math.isfinite(largest):
        return Moments(*[math.inf if largest == math.inf else math.nan] * 4)
    squared_mean, variance = channel_moments(flat / largest)
    top = math.log10(largest)
    parts = (squared_mean + variance, squared_mean, variance)
    return Moments(top, *(2 * top + math.log10(part) if part > 0 else -math.inf for part in parts))
