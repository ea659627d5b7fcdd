"""Random numbers as a pure function of a seed a sample, the draw's index and the element's position.

Every number is a hash in int64 arithmetic, in the manner of counter-based generators (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", 2011). So the same seeds give the same numbers in eager mode, under transforms, compiled
and in a file, and nothing draws from a generator of PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["CounterNoise"]

_BITS = 31
_MASK = (1 << _BITS) - 1
_FACTORS = 0x7FEB352D, 0x6C8E9CF5  # odd and below 2^31, so that no product overflows int64
_DRAW_STEP = 0x2545F491


def _mix(word: Tensor) -> Tensor:
    """Return a bijection of the integers below 2^31 in which each bit depends on all: xor-shifts and products."""
    word = word ^ (word >> 16)  # then in place, which saves most of the time of a large draw
    word.mul_(_FACTORS[0]).bitwise_and_(_MASK)
    word.bitwise_xor_(word >> 15)
    word.mul_(_FACTORS[1]).bitwise_and_(_MASK)
    return word.bitwise_xor_(word >> 16)


class CounterNoise:
    """Successive draws from one seed a sample.

    Args:
        seed: (batch,), int64, not negative.

    A draw of shape (n, …) uses the seed of sample ⌊i·batch/n⌋ in its row i: each sample its own where n is the batch
    size, or batch × heads, and the first one throughout where n is 1. So a sample's numbers do not depend on which
    others are in its batch.
    """

    def __init__(self, seed: Tensor) -> None:
        self.seed = seed
        self.draws = 0

    def _words(self, shape: Sequence[int]) -> Tensor:
        """Return integers below 2^31."""
        self.draws += 1
        step = self.draws * _DRAW_STEP & _MASK
        low = _mix(_mix((self.seed & _MASK) ^ step) ^ (self.seed >> _BITS & _MASK))
        high = _mix(low ^ _FACTORS[1])
        batch, rows, rest = self.seed.shape[0], shape[0] if shape else 1, math.prod(shape[1:])
        row = torch.arange(rows, device=self.seed.device)
        sample = row * batch // rows
        place = (row - (sample * rows + batch - 1) // batch) & _MASK
        key = _mix(_mix(place ^ low[sample]) ^ high[sample])  # of a row; what is outside of it differs in its key
        key = key.reshape((rows, *(1,) * (len(shape) - 1)) if shape else ())
        inner = torch.arange(rest, device=self.seed.device).reshape(tuple(shape[1:]))
        return _mix(_mix((inner + 1) & _MASK) ^ key)  # the one pass over all elements

    def at_least(self, shape: Sequence[int], rate: float) -> Tensor:
        """Return booleans that are False with probability `rate`, to 2^-31."""
        return self._words(shape) >= round(rate * 2**_BITS)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return numbers inside (0, 1), of shape `shape`: the centres of 2^24 equal parts, of 2^31 in float64."""
        word = self._words(shape)
        bits = _BITS if dtype == torch.float64 else 24
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        # 24 bits and a half need 25, which float32 rounds: the even neighbour is inside (0, 1] then, so clamp below 1
        centre = ((word >> (_BITS - bits)).to(wide) + 0.5) * 2.0**-bits
        return centre.clamp(max=1 - 2.0 ** -(bits + (wide == torch.float64))).to(wide)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return standard normal numbers by the Box–Muller transform."""
        radius = (-2 * self.uniform(shape, dtype).log()).sqrt()
        return radius * (2 * math.pi * self.uniform(shape, dtype)).cos()
