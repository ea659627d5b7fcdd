"""Learnt mixes over depth: each block's output is averaged with those of earlier blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pure.block import Extras, Params
from pure.composite import Run
from pure.errors import ArgumentError, ShapeError
from pure.initializers import Device
from pure.skips.streams.stream_axis import Stack, owned, weighted_sum
from pure.tags import tag

__all__ = ["DenseFormer", "EarlierOutputs"]


def _last(length: int, dtype: torch.dtype, device: Device) -> torch.Tensor:
    """Return zeros and a one behind: the mix that is the newest value alone."""
    return torch.cat([torch.zeros(length - 1, dtype=dtype, device=device), torch.ones(1, dtype=dtype, device=device)])


@dataclass(frozen=True, repr=False)
class DenseFormer(Stack):
    """Depth weighted average: xᵢ = Bᵢ(yᵢ₋₁), yᵢ = Σⱼ≤ᵢ αᵢⱼ xⱼ, with x₀ = y₀ the input.

    At first αᵢᵢ = 1 and the others are 0, so that the network is the plain chain of its blocks. The blocks bring
    their own skips, as transformer blocks do.

    Leaves: `alphas.i`, one vector for each block that is followed by a mix, oldest first. Tags: "stream[i]" (yᵢ).

    Args:
        blocks: B₁ … B_L; each keeps the input's shape.
        period: a mix behind every `period`-th block only; the others pass yᵢ = xᵢ.
        dilation: a mix sees the xⱼ with j ≡ i (mod dilation) only.

    Raises:
        ArgumentError: `period` or `dilation` below 1.
        ShapeError: a block whose output has another shape than its input.

    Source: Pagliardini et al. 2024 (2402.02622), section 3: equation of DWA, dilation and period.

    Example:
        >>> from pure import Linear
        >>> net = DenseFormer((Linear(3, 3), Linear(3, 3)))
        >>> params, _ = net.init(torch.Generator().manual_seed(0))
        >>> params["alphas"]
        {'0': tensor([0., 1.]), '1': tensor([0., 0., 1.])}
    """

    period: int = 1
    dilation: int = 1

    def __post_init__(self) -> None:
        if self.period < 1 or self.dilation < 1:
            raise ArgumentError(
                f"DenseFormer period={self.period}, dilation={self.dilation}: expected at least 1 for both"
            )
        super().__post_init__()

    def _lengths(self) -> dict[str, int]:
        """Return how many values the mix behind each block has, for the blocks that have one."""
        depths = range(self.period, len(self.blocks) + 1, self.period)
        return {str(depth - 1): depth // self.dilation + 1 for depth in depths}

    def own(self, generator: torch.Generator, dtype: torch.dtype, device: Device) -> Params:
        """Return the mixes that are each the newest value alone."""
        alphas = {name: _last(length, dtype, device) for name, length in self._lengths().items()}
        return {"alphas": alphas} if alphas else {}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return y_L."""
        seen, lengths = [x], self._lengths()
        for depth in range(1, len(self.blocks) + 1):
            name = str(depth - 1)
            x = run(name, x)
            _same(self, name, x, seen[0])
            seen.append(x)
            if name in lengths:
                alpha = owned(self, params, f"alphas.{name}", (lengths[name],), x)
                x = weighted_sum(alpha, seen[depth % self.dilation :: self.dilation])
            x = tag(x, f"stream[{name}]")
        return x


@dataclass(frozen=True, repr=False)
class EarlierOutputs(Stack):
    """Residual gates over all earlier streams: xᵢ₊₁ = fᵢ(xᵢ) + Σⱼ≤ᵢ γᵢⱼ xⱼ.

    At first γᵢᵢ = 1 and the others are 0: the plain residual network.

    Leaves: `gates.i` of shape (i + 1,), oldest first. Tags: "branch[i]" (fᵢ(xᵢ)), "stream[i]" (xᵢ₊₁).

    Args:
        blocks: the branches f₀ … f_{L−1}; each keeps the input's shape.

    Raises:
        ShapeError: a branch whose output has another shape than its input.

    Source: Menghani et al. 2024 (2411.07501), LAuReL-PA (previous activations), with the identity for hᵢ.

    Example:
        >>> from pure import Linear
        >>> net = EarlierOutputs((Linear(3, 3), Linear(3, 3)))
        >>> params, _ = net.init(torch.Generator().manual_seed(0))
        >>> net(params, torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    def own(self, generator: torch.Generator, dtype: torch.dtype, device: Device) -> Params:
        """Return the gates that pass the newest stream alone."""
        return {"gates": {name: _last(int(name) + 1, dtype, device) for name in self.parts()}}

    def combine(self, run: Run, params: Params, x: Any, extras: Extras) -> Any:
        """Return x_L."""
        seen = [x]
        for depth in range(len(self.blocks)):
            name = str(depth)
            f = tag(run(name, seen[-1]), f"branch[{name}]", kind="branch")
            _same(self, name, f, x)
            gates = owned(self, params, f"gates.{name}", (depth + 1,), x)
            seen.append(tag(f + weighted_sum(gates, seen), f"stream[{name}]"))
        return seen[-1]


def _same(block: Stack, name: str, given: torch.Tensor, stream: torch.Tensor) -> None:
    if given.shape != stream.shape:
        raise ShapeError(
            f"{type(block).__name__}: block {name!r} gives {tuple(given.shape)} from a stream of "
            f"{tuple(stream.shape)}: expected one shape: change width before or behind the stack"
        )
