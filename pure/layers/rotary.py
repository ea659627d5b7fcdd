"""Rotary positions: queries and keys turned by an angle that grows with the position."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pure.errors import ArgumentError, ShapeError

__all__ = ["Rotary"]


@dataclass(frozen=True)
class Rotary:
    """Turn pairs of features of the token at position p by the angles p · base^(−2i / d), i the pair.

    Token 0 stands at position 0. The angles and the turn are computed in float32 at least; float64 stays float64.

    Args:
        features: d, how many of the first features are turned; None turns all, the rest is left as it is.
        base: of the wavelengths.
        interleaved: pairs are neighbours (2i, 2i + 1), as in the paper and in GPT-J, instead of (i, i + d/2), as in
            GPT-NeoX and Llama.
        llama3: (factor, low_frequency, high_frequency, original_tokens) of Llama 3.1's longer context: wavelengths
            above original_tokens / low_frequency are stretched by the factor, those below original_tokens /
            high_frequency are kept, between them the two are mixed.
        stretch: positions are divided by it ("linear" scaling).

    Raises:
        ArgumentError: an odd or non-positive number of features.
        ShapeError: an input with fewer, or with an odd number of features where all are turned.

    Source: Su et al. 2021 (2104.09864), equation 34.

    Example:
        >>> y = Rotary()(torch.ones(1, 2, 4))
        >>> torch.equal(y[0, 0], torch.ones(4)), bool(torch.isclose(y[0, 1].norm(), torch.tensor(2.0)))
        (True, True)
    """

    features: int | None = None
    base: float = 10000.0
    interleaved: bool = False
    llama3: tuple[float, float, float, float] | None = None
    stretch: float = 1.0

    def __post_init__(self) -> None:
        if self.features is not None and (self.features < 2 or self.features % 2):
            raise ArgumentError(f"Rotary features={self.features}: expected a positive even number, or None for all")
        if not self.base > 0:
            raise ArgumentError(f"Rotary base={self.base}: expected a positive number")
        if not self.stretch > 0 or (self.llama3 is not None and not 0 < self.llama3[1] < self.llama3[2]):
            raise ArgumentError(
                f"Rotary stretch={self.stretch}, llama3={self.llama3}: expected a positive stretch, and "
                "0 < low_frequency < high_frequency"
            )

    def angles(self, tokens: int, features: int, like: Tensor) -> Tensor:
        """Return the angles (tokens, features / 2), on the device of `like`, at least float32."""
        wide = torch.promote_types(like.dtype, torch.float32)
        exponents = torch.arange(0, features, 2, dtype=wide, device=like.device) / features
        positions = torch.arange(tokens, device=like.device).to(wide)
        return positions[:, None] * self._frequencies(exponents)

    def _frequencies(self, exponents: Tensor) -> Tensor:
        """Return the angle between neighbouring positions, one a pair."""
        frequencies = torch.pow(self.base, -exponents)
        if self.llama3 is None:
            return frequencies / self.stretch if self.stretch != 1.0 else frequencies
        factor, low, high, original = self.llama3
        turns = frequencies * original / (2 * math.pi)
        kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
        return (1 - kept) * frequencies / factor + kept * frequencies

    def __call__(self, x: Tensor) -> Tensor:
        """Return (batch, …, tokens, features) with its first features turned."""
        total = x.shape[-1]
        turned = total if self.features is None else self.features
        if turned > total or turned % 2:
            raise ShapeError(f"{self}: input of {total} features a head, expected an even number, at least as many")
        angles = self.angles(x.shape[-2], turned, x)
        cos, sin = angles.cos(), angles.sin()
        wide = x[..., :turned].to(angles.dtype)
        a, b = wide.unflatten(-1, (turned // 2, 2)).unbind(-1) if self.interleaved else wide.chunk(2, -1)
        pair = a * cos - b * sin, b * cos + a * sin
        y = torch.stack(pair, -1).flatten(-2) if self.interleaved else torch.cat(pair, -1)
        y = y.to(x.dtype)
        return y if turned == total else torch.cat([y, x[..., turned:]], -1)
