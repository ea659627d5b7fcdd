"""Rounding scales of a function that cannot be recorded: eager runs in float64 with random roundings.

As in `export.verdict.monte_carlo`, but at each operator as PyTorch dispatches it. Decisions are taken as float64 takes
them: where rounding leaves one open, the scale does not hold the jump.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode

from export.trace.arguments import Arguments
from export.verdict.noise_model import UNITS, cast_to, is_exact, is_float, is_primitive, name_of, noise
from export.verdict.reference_runs import run
from export.verdict.sampled import Sampled, Scales, Spread

__all__ = ["measure_eager"]


class _Noise(TorchDispatchMode):
    """Adds a random rounding to the result of every operator."""

    def __init__(self, unit: float, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.unit, self.generator = unit, generator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = name_of(func)
        writes = func._schema.is_mutable
        if not writes and not is_primitive(func):
            with self:
                return decomposition_table[func](*args, **kwargs)
        out = func(*args, **kwargs)
        if writes or is_exact(name, args, kwargs) or cast_to(name, args, kwargs) is not None:
            return out
        results = out if isinstance(out, (tuple, list)) else (out,)
        sizes = noise(func, name, args, kwargs, out)
        sizes = sizes if isinstance(sizes, (tuple, list)) else (sizes,)
        noisy = [self._rounded(y, size) for y, size in zip(results, sizes, strict=True)]
        return type(out)(noisy) if isinstance(out, (tuple, list)) else noisy[0]

    def _rounded(self, y: Any, size: Tensor | None) -> Any:
        if size is None or not is_float(y):
            return y
        draw = torch.randn(y.shape, generator=self.generator, dtype=y.dtype).to(y.device)
        return y + torch.nan_to_num(self.unit * size, nan=0.0, posinf=0.0) * draw


def measure_eager(
    fn: Callable[..., Any], arguments: Arguments, leaves: Sequence[Tensor], *, runs: int, seed: int = 0
) -> Scales:
    """Measure the rounding scale of every output of a function by eager runs.

    Args:
        fn: the function.
        arguments: its arguments' structure.
        leaves: its inputs, which are taken as exact.
        runs: how many noisy runs are made.
        seed: of the noise. The same seed gives the same scales.
    """
    unit = max((UNITS.get(leaf.dtype, 0.0) for leaf in leaves), default=0.0) or UNITS[torch.float32]
    reference = run(fn, arguments, leaves, to=torch.float64).leaves
    spread = Spread(runs)
    for number in range(runs):
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        with _Noise(unit, generator):
            noisy = run(fn, arguments, leaves, to=torch.float64).leaves
        spread.add(dict(enumerate(reference)), dict(enumerate(noisy)))
    return Scales(
        outputs=tuple(Sampled(value, spread.scale(i, value)) for i, value in enumerate(reference)),
        decisions={},
        branches={},
    )
