"""Statistics of one activation on a logarithmic scale, so that neither squares nor products overflow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["GateShares", "Moments", "gate_activity", "moments"]

SHUT, OPEN = 0.01, 0.99


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


def moments(value: Tensor) -> Moments:
    """Return the moments of an activation: axis 1 holds its channels, of (batch, tokens, features) the last axis.

    Args:
        value: batch first.

    Source: Brock et al. 2021 (2101.08692), section 2, signal propagation plots.

    Example:
        >>> found = moments(torch.tensor([[1e200], [3e200]], dtype=torch.float64))
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
    channel = 2 if flat.ndim == 3 else 1
    scaled = flat / largest
    variance, mean = torch.var_mean(scaled, [axis for axis in range(flat.ndim) if axis != channel], correction=0)
    squared_mean, spread = torch.stack([mean.square().mean(), variance.mean()]).tolist()
    top = math.log10(largest)
    logs = [
        2 * top + math.log10(part) if part > 0 else -math.inf for part in (squared_mean + spread, squared_mean, spread)
    ]
    return Moments(top, *logs)


@dataclass(frozen=True)
class GateShares:
    """What the gates of one block do, over batch and features.

    Attributes:
        mean: mean gate, between 0 and 1.
        shut: the share of values below 0.01.
        open: the share of values above 0.99.
    """

    mean: float
    shut: float
    open: float

    @property
    def saturated(self) -> float:
        """The share of values at either end, where the sigmoid's slope is below 0.01."""
        return self.shut + self.open


def gate_activity(values: list[Tensor]) -> GateShares | None:
    """Return the activity of the tagged gates of one block together, None if it has none."""
    flat = [value.detach().double().flatten() for value in values]
    if not flat or not sum(len(part) for part in flat):
        return None
    gates = torch.cat(flat)
    return GateShares(
        *torch.stack([gates.mean(), (gates < SHUT).double().mean(), (gates > OPEN).double().mean()]).tolist()
    )
