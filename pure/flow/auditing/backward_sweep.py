"""The audit's backward sweep: the gradient, its parts by path length, random probes, deletions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pure.block import Block
from pure.errors import UnsupportedError
from pure.flow.auditing.block_chain import Link, Links
from pure.flow.auditing.chain_sweep import Pull, Pullback, floating, run_link
from pure.flow.auditing.forward_sweep import Forward, Track
from pure.flow.shared.log_scale import LOG10_2, Scaled, log10, times_power
from pure.flow.shared.quantiles import quantiles
from pure.tags import Tagged, substitute

__all__ = [
    "Backward",
    "Carried",
    "ChainSteps",
    "Steps",
    "backward",
    "direction",
    "log10_total",
    "scaled_loss",
    "swept",
    "without_branch",
]

Judge = Callable[[Any], tuple[float, float]]
"""From an output to (the loss, its distance from the unchanged output, relative to that output's norm)."""


@dataclass(frozen=True, eq=False)
class Backward:
    """What the backward measured.

    Attributes:
        gradient: log10 ‖∂loss/∂(output of each block)‖, the first of the list by the network's input.
        bands: log10 of the 10%, 50% and 90% quantiles over the samples of the same; the input has none.
        parameters: log10 ‖∂loss/∂(parameters of each block)‖.
        paths: log10 norm of the input gradient's part through exactly 0, 1, … branches; empty if none was asked for.
        probes: {(source, target): (batch,) log10 of each sample's ‖Jᵀu‖², u a random unit vector}.
        deletions: {position: the judge's measures of the output without the block's branch}.
    """

    gradient: list[float]
    bands: list[list[float]]
    parameters: list[float]
    paths: list[float]
    probes: dict[tuple[int, int], Tensor]
    deletions: dict[int, tuple[float, float]]


class Steps(Protocol):
    """The blocks of a network that has run, from the last to the first."""

    def pull(self, index: int, *, split: bool) -> Pull:
        """Return a block ready to be pulled back through; `split` tells what passes its branch from the rest."""

    def source(self, index: int) -> Any:
        """Return what the block was given; asked for after `pull`."""

    def without(self, index: int) -> Any:
        """Return the network's output without the block's branch; None if nothing can be left out."""


class ChainSteps:
    """The links of a chain, each run again on its input.

    Args:
        chain: the links.
        done: what the forward left.
        extras: what the network reads beside its input.
    """

    def __init__(self, chain: Links, done: Forward, extras: Mapping[str, Any]) -> None:
        assert done.inputs is not None
        self.chain, self.done, self.extras, self._inputs = chain, done, extras, done.inputs
        self._stream = done.output

    def pull(self, index: int, *, split: bool) -> Pull:
        """Return a link run again on its input.

        Raises:
            UnsupportedError: it gives another output than in the forward.
        """
        after, self._stream = self._stream, self._inputs.take(index)
        link = self.chain[index]
        pull = Pullback(link, self._stream, self.extras, self.done.seen[index].branch_path if split else None)
        _same(link, pull.outputs, floating(after))
        return pull

    def source(self, index: int) -> Any:
        """Return what the link was given."""
        return self._stream

    def without(self, index: int) -> Any:
        """Return the output without the link's branch, or past a link without one."""
        y = without_branch(self.chain[index], self._stream, self.extras)
        with torch.no_grad():
            for at in range(index + 1, len(self.done.seen) if y is not None else 0):
                y = run_link(self.chain[at], y, self.extras)
        return y


@dataclass(frozen=True, eq=False)
class Carried:
    """What a backward sweep takes with it from block to block.

    Attributes:
        cotangent: ∂loss/∂stream.
        paths: its parts through 0, 1, … branches; empty if none was asked for.
        probes: {target: a random direction of its stream, pulled back as far}.
    """

    cotangent: Scaled
    paths: list[Scaled]
    probes: dict[int, Scaled]

    @classmethod
    def begun(cls, cotangent: Scaled, orders: int) -> Carried:
        """Return what a sweep begins with at the output, for paths of up to `orders` branches; below 0 for none."""
        return cls(cotangent, [cotangent, *[_zeros(cotangent)] * orders] if orders >= 0 else [], {})


def backward(
    steps: Steps,
    done: Forward,
    cotangent: Scaled,
    *,
    orders: int,
    stations: Sequence[int],
    deleted: Sequence[int],
    judge: Judge,
    generator: torch.Generator,
    track: Track,
) -> Backward:
    """Sweep from the last measured block to the first.

    Args:
        steps: the blocks.
        done: what the forward left.
        cotangent: ∂loss/∂output.
        orders: the longest path that is told apart, in branches; below 0 for none.
        stations: positions between which partial Jacobians are probed; position l is the output of block l − 1.
        deleted: positions of the blocks to delete, one at a time.
        judge: measures an output.
        generator: draws the probes.
        track: wraps the loop.

    Raises:
        UnsupportedError: a block gives another output when it runs again.
    """
    carried = Carried.begun(cotangent, orders)
    found, carried = swept(steps, len(done.seen), done.output, carried, stations, generator, track, deleted, judge)
    found.paths.extend(path.log10_norm() for path in carried.paths)
    return found


def swept(
    steps: Steps,
    depth: int,
    y: Any,
    carried: Carried,
    stations: Sequence[int],
    generator: torch.Generator,
    track: Track,
    deleted: Sequence[int] = (),
    judge: Judge | None = None,
    *,
    start: int = 0,
) -> tuple[Backward, Carried]:
    """Sweep back through blocks of a network that stand one behind the other.

    Args:
        steps: the blocks, counted from 0.
        depth: how many they are.
        y: the output of the last.
        carried: what the sweep has brought along.
        stations: see `backward`; positions in the whole network.
        generator: draws the probes.
        track: wraps the loop.
        deleted: see `backward`.
        judge: measures an output, where blocks are deleted.
        start: how many blocks of the network stand before the first.

    Returns:
        what was measured, without paths, and what the sweep takes further.
    """
    cotangent, paths, probes = carried.cotangent, carried.paths, dict(carried.probes)
    found = Backward([cotangent.log10_norm()], [], [], [], {}, {})
    for index in track(range(depth - 1, -1, -1), "backward"):
        place = start + index
        if place + 1 in stations:
            probes[place + 1] = direction(y, generator, each=True)
        found.bands.append(_band(cotangent.log10_sample_norms()))
        pull = steps.pull(index, split=bool(paths))
        cotangent, by_params = pull.full(scale := cotangent)
        found.gradient.append(cotangent.log10_norm())
        found.parameters.append(Scaled(by_params, scale.exponent).log10_norm() if by_params else -math.inf)
        paths = _lengthened(pull, paths)
        probes = {target: pull.through(probe) for target, probe in probes.items()}
        if place in stations or place == 0:
            for target, probe in probes.items():
                found.probes[place, target] = 2 * probe.log10_sample_norms().cpu()
        if judge is not None and index in deleted and (changed := steps.without(index)) is not None:
            found.deletions[index] = judge(changed)
        y = steps.source(index)
    found.gradient.reverse()
    found.bands.reverse()
    found.parameters.reverse()
    return found, Carried(cotangent, paths, probes)


def direction(y: Any, generator: torch.Generator, *, each: bool = False) -> Scaled:
    """Return a random direction in the space of a stream, uniform on the unit sphere.

    Args:
        y: the stream.
        generator: draws it, on the generator's device, in float64.
        each: a unit vector for every sample, rather than one for the whole batch.
    """
    parts = [
        torch.randn(part.shape, generator=generator, dtype=torch.float64, device=generator.device).to(part.device)
        for part in floating(y)
    ]
    if each:
        squares = [part.reshape(part.shape[0], -1).square().sum(1) for part in parts]
        norms = torch.stack(squares).sum(0).sqrt()
        parts = [part / norms.reshape(-1, *[1] * (part.ndim - 1)) for part in parts]
    else:
        norm = math.hypot(*(float(part.norm()) for part in parts))
        parts = [part / norm for part in parts]
    return Scaled([part.to(like.dtype) for part, like in zip(parts, floating(y), strict=True)])


def scaled_loss(value: Tensor, outputs: Sequence[Tensor]) -> Scaled:
    """Return ∂loss/∂output of a loss that was computed on these outputs."""
    if not value.requires_grad:
        return Scaled([torch.zeros_like(part) for part in outputs])
    found = torch.autograd.grad(value, list(outputs), allow_unused=True)
    return Scaled(
        [torch.zeros_like(part) if g is None else g for part, g in zip(outputs, found, strict=True)]
    ).rescaled()


def _band(logs: Tensor) -> list[float]:
    """Return log10 of the quantiles over the samples, taken on the samples' own scale."""
    top = float(logs.max())
    if not math.isfinite(top):
        return [top] * 3
    return (quantiles(10 ** (logs - top)).log10() + top).tolist()


def _zeros(cotangent: Scaled) -> Scaled:
    return Scaled([torch.zeros_like(part) for part in cotangent.parts], cotangent.exponent)


def _lengthened(pull: Pull, paths: list[Scaled]) -> list[Scaled]:
    """Return the parts by path length before the block: past its branch, or through it and so one longer."""
    if not paths:
        return paths
    exponent = paths[0].exponent
    split = [pull.split(path.parts) for path in paths]
    parts = [split[0][0]]
    for (past, _), (_, through) in zip(split[1:], split[:-1], strict=True):
        parts.append([a + b for a, b in zip(past, through, strict=True)])
    largest = max((norm for norm in (Scaled(part).log10_norm() for part in parts) if math.isfinite(norm)), default=0.0)
    if abs(largest) <= 8:
        return [Scaled(part, exponent) for part in parts]
    shift = round(largest / LOG10_2)
    return [Scaled([times_power(p, -shift) for p in part], exponent + shift) for part in parts]


def without_branch(link: Link, x: Any, extras: Mapping[str, Any]) -> Any:
    """Return a block's output when its branch adds nothing, or its input for a block without one; None if neither.

    A stream whose shape a block without a branch changes cannot pass it by.
    """

    def silent(tagged: Tagged) -> Any:
        return torch.zeros_like(tagged.value) if isinstance(tagged.value, Tensor) else tagged.value

    skipped: list[str] = []

    def noted(tagged: Tagged) -> Any:
        skipped.append(tagged.path)
        return silent(tagged)

    with torch.no_grad():
        y = substitute(run_link, noted, "branch")(link, x, extras)
    if not skipped or _gated(link.block):
        return x if [part.shape for part in floating(y)] == [part.shape for part in floating(x)] else None
    return y


def _gated(block: Block) -> bool:
    """Return whether a block's skip is itself gated, so that its branch cannot be silenced alone."""
    return "gate" in block.children()


def _same(link: Link, again: Sequence[Tensor], first: Sequence[Tensor]) -> None:
    """Raise if a block's second run differs from its first by more than rounding.

    Raises:
        UnsupportedError: the block is not a function of its arguments.
    """
    for a, b in zip(again, first, strict=True):
        if not torch.equal(a, b) and not torch.allclose(a, b, rtol=1e-2, atol=1e-3 * float(b.abs().max())):
            raise UnsupportedError(
                f"{link.name or type(link.block).__name__} is not pure: it gives another output when it runs again on "
                "the same input: pass what changes in the state, and random numbers as block.noise draws them"
            )


def log10_total(logs: Sequence[float]) -> float:
    """Return log10 of √Σ 10^(2·log): several norms as one.

    >>> round(log10_total([3000.0, 3000.0]), 6)
    3000.150515
    """
    top = max(logs, default=-math.inf)
    if not math.isfinite(top):
        return top
    return top + log10(sum(10 ** (2 * (log - top)) for log in logs)) / 2
