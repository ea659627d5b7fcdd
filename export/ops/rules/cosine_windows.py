"""Windows of cosines: PyTorch 2.11 has no rule for any of them, and ONNX's ``HammingWindow`` has other numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

aten: Any = torch.ops.aten


def _window(
    weights: tuple[float, float, float],
    length: int,
    periodic: bool = True,
    *,
    dtype: torch.dtype | None = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
) -> torch.Tensor:
    """c·cos(2t) − b·cos(t) + a; t makes a full turn in ``length`` steps, in one step less if not periodic."""
    if length == 1:
        return torch.ones(1, dtype=dtype, device=device)
    a, b, c = weights
    step = 2 * math.pi / max(length if periodic else length - 1, 1)
    turn = torch.arange(length, dtype=dtype or torch.get_default_dtype(), device=device) * step
    first = b * turn.cos()
    return c * (2 * turn).cos() - first + a if c else a - first


def _hamming(length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, **made: Any) -> torch.Tensor:
    """alpha − beta·cos(t)."""
    return _window((alpha, beta, 0.0), length, periodic, **made)


_hann = functools.partial(_window, (0.5, 0.5, 0.0))
_blackman = functools.partial(_window, (0.42, 0.5, 0.08))

RULES: dict[Any, Callable[..., Any]] = {
    aten.hann_window.default: _hann,
    aten.hann_window.periodic: _hann,
    aten.hamming_window.default: _hamming,
    aten.hamming_window.periodic: _hamming,
    aten.hamming_window.periodic_alpha: _hamming,
    aten.hamming_window.periodic_alpha_beta: _hamming,
    aten.blackman_window.default: _blackman,
    aten.blackman_window.periodic: _blackman,
}
"""Windows."""
