"""Discrete Fourier transforms of pairs, as products with matrices of cosines and sines.

X[k] = Σⱼ x[j] exp(∓2πi jk/n). Long axes of fixed composite size are split, n = a·b, into transforms of size a and b
with a twiddle factor in between (Cooley and Tukey, Math. Comp. 19, 1965), so that the cost is n (a + b), not n². Made
of ordinary operators, a transform runs on every device, and a verdict follows its rounding errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

from export.ops.complex_pairs.pair import Pair, pair_of

__all__ = ["PAIRS"]

MAX_DIRECT_SIZE = 256
"""Points of a transform up to which it is one product; longer ones are split where they have factors."""

Size = int | torch.SymInt


def _waves(rows: Tensor, columns: Tensor, n: Size) -> tuple[Tensor, Tensor]:
    """Return cos and sin of 2π jk/n; jk is reduced modulo n as an integer, so that no angle is large.

    Zeros are exact: the transform of a real signal has frequencies without an imaginary part.
    """
    step: Any = rows.unsqueeze(1) * columns % n
    angle = step.to(torch.float64) * (2 * math.pi / n)
    half_turn, quarter_turn = step * 2 % n == 0, step * 4 % n == 0
    zero = torch.zeros_like(angle)
    return torch.where(quarter_turn & ~half_turn, zero, angle.cos()), torch.where(half_turn, zero, angle.sin())


def _wave_matrices(rows: Size, columns: Size, n: Size, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin of 2π jk/n for j < rows and k < columns, in the dtype of `like`; constants if n is fixed."""
    if all(isinstance(size, int) for size in (rows, columns, n)):
        with unset_fake_temporarily(), disable_proxy_modes_tracing():
            cosine, sine = _waves(torch.arange(rows), torch.arange(columns), n)
    else:
        counted = [torch.arange(size, device=like.device) for size in (rows, columns)]
        cosine, sine = _waves(counted[0], counted[1], n)
    return cosine.to(like.dtype), sine.to(like.dtype)


def _split(n: Size) -> tuple[int, int] | None:
    """Return the two factors of a fixed size that are nearest to its root; None where one product is used."""
    if not isinstance(n, int) or n <= MAX_DIRECT_SIZE:
        return None
    factor = next(a for a in range(math.isqrt(n), 0, -1) if n % a == 0)
    return (factor, n // factor) if factor > 1 else None


def _rotated(z: Pair, cosine: Tensor, sine: Tensor, forward: bool) -> Pair:
    """Multiply elementwise by exp(∓iθ)."""
    turn = sine if forward else -sine
    return Pair(z.re * cosine + z.im * turn, z.im * cosine - z.re * turn)


def _last_axis(z: Pair, n: Size, forward: bool, kept: Size) -> Pair:
    """Transform the last axis, of n points; return its first `kept` frequencies, unnormalised."""
    factors = _split(n)
    if factors is None:
        cosine, sine = _wave_matrices(n, kept, n, z.re)
        turn = sine if forward else -sine
        if z.is_real:
            return Pair(z.re @ cosine, -(z.re @ turn))
        return Pair(z.re @ cosine + z.im @ turn, z.im @ cosine - z.re @ turn)
    a, b = factors
    lead = list(z.re.shape[:-1])
    columns = Pair(z.re.reshape([*lead, a, b]).mT, z.im.reshape([*lead, a, b]).mT, z.is_real)
    inner = _last_axis(columns, a, forward, a)
    turned = _rotated(Pair(inner.re.mT, inner.im.mT), *_wave_matrices(a, b, n, z.re), forward)
    outer = _last_axis(turned, b, forward, b)
    re, im = (part.mT.reshape([*lead, n]) for part in (outer.re, outer.im))
    return Pair(re, im) if kept is n else Pair(re.narrow(-1, 0, kept), im.narrow(-1, 0, kept))


def _along(z: Pair, axis: int, forward: bool, kept: Size | None = None) -> Pair:
    """Transform one axis."""
    n = z.re.shape[axis]
    moved = Pair(z.re.movedim(axis, -1), z.im.movedim(axis, -1), z.is_real)
    result = _last_axis(moved, n, forward, n if kept is None else kept)
    return Pair(result.re.movedim(-1, axis), result.im.movedim(-1, axis))


def _normalised(z: Pair, sizes: Sequence[Size], mode: int) -> Pair:
    """Divide by the root of the number of points (mode 1) or by that number (mode 2)."""
    if mode == 0:
        return z
    scale = _scale(sizes, mode)
    return Pair(z.re * scale, z.im * scale)


def _scale(sizes: Sequence[Size], mode: int) -> Any:
    count: Any = 1
    for size in sizes:
        count = count * size
    return 1 / (torch.sym_sqrt(count) if mode == 1 else count)


def _complex_to_complex(z: Any, axes: Sequence[int], normalization: int, forward: bool) -> Pair:
    z = pair_of(z)
    sizes = [z.re.shape[axis] for axis in axes]
    for axis in axes:
        z = _along(z, axis, forward)
    return _normalised(z, sizes, normalization)


def _real_to_complex(x: Tensor, axes: Sequence[int], normalization: int, onesided: bool) -> Pair:
    sizes = [x.shape[axis] for axis in axes]
    z = _along(pair_of(x), axes[-1], True, sizes[-1] // 2 + 1 if onesided else None)
    for axis in axes[:-1]:
        z = _along(z, axis, True)
    return _normalised(z, sizes, normalization)


def _complex_to_real(z: Any, axes: Sequence[int], normalization: int, n: Size) -> Tensor:
    """Transform back to n real points from the frequencies up to n/2; those above are their conjugates."""
    z = pair_of(z)
    for axis in axes[:-1]:
        z = _along(z, axis, False)
    last = axes[-1]
    re, im = z.re.movedim(last, -1), z.im.movedim(last, -1)
    half = n // 2 + 1
    if _split(n) is None:
        cosine, sine = _wave_matrices(half, n, n, re)
        number = torch.arange(half, device=re.device)
        twice = ((number > 0) & (number * 2 != n)).to(re.dtype) + 1
        x = (re * twice) @ cosine - (im * twice) @ sine
    else:
        mirrored = [part.narrow(-1, 1, n - half).flip(-1) for part in (re, im)]
        whole = Pair(torch.cat([re, mirrored[0]], -1), torch.cat([im, -mirrored[1]], -1))
        x = _last_axis(whole, n, False, n).re
    x = x.movedim(-1, last)
    return x if normalization == 0 else x * _scale([*(z.re.shape[axis] for axis in axes[:-1]), n], normalization)


PAIRS: dict[str, Any] = {
    "_fft_c2c": _complex_to_complex,
    "_fft_r2c": _real_to_complex,
    "_fft_c2r": _complex_to_real,
}
