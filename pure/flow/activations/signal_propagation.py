"""Signal propagation: channel means and variances of every stream and branch, by depth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure.block import EMPTY, Block, Params, State
from pure.flow.activations.channel_moments import channel_moments
from pure.flow.activations.residual_steps import Step, missing, steps_of
from pure.flow.shared.block_call import block_first, of_input
from pure.flow.shared.input_checks import finite_values, purely
from pure.flow.shared.over_ranks import Whole, over_ranks
from pure.flow.shared.result import Readings, finite_or_none
from pure.flow.shared.text_table import table
from pure.spmd.process_group import Group
from pure.tags import observe

__all__ = ["ChannelSignal", "Signal", "signal"]


@dataclass(frozen=True)
class ChannelSignal:
    """One tagged value, averaged over batch and positions for each channel, then over the channels.

    Attributes:
        path: where it was tagged, such as "layers.3.stream".
        kind: "stream" or "branch".
        depth: how many streams were complete before this step: 0, 1, ….
        squared_mean: average channel squared mean: each channel's mean over batch and positions, squared, averaged
            over the channels.
        variance: average channel variance: each channel's variance over batch and positions (divided by their number),
            averaged over the channels.
        ratio: of a branch, its variance over the variance of what went into the step; NaN of a stream, and where the
            input has no variance.
        finite_fraction: the part of its values that are neither NaN nor infinite; below 1 the other numbers are NaN.
    """

    path: str
    kind: str
    depth: int
    squared_mean: float
    variance: float
    ratio: float
    finite_fraction: float


@dataclass(frozen=True, eq=False)
class Signal(Readings[str, ChannelSignal]):
    """The signal by depth. As a mapping: {path of the tag: its numbers}, in the order of depth.

    Attributes:
        channels: {path: numbers} of every stream and branch.
        input_squared_mean: of the network's input; NaN where that is no floating-point tensor.
        input_variance: the same.
        not_finite: the paths that hold NaN or an infinity, in order: the first is where the trouble starts.
    """

    channels: dict[str, ChannelSignal]
    input_squared_mean: float
    input_variance: float
    not_finite: tuple[str, ...]

    @property
    def _readings(self) -> Mapping[str, ChannelSignal]:
        return self.channels

    def __repr__(self) -> str:
        trouble = f", not finite from {self.not_finite[0]!r}" if self.not_finite else ""
        return f"Signal({len(self.streams)} streams, {len(self.branches)} branches{trouble})"

    @property
    def streams(self) -> list[ChannelSignal]:
        """The streams by depth."""
        return [value for value in self.channels.values() if value.kind == "stream"]

    @property
    def branches(self) -> list[ChannelSignal]:
        """The branches by depth."""
        return [value for value in self.channels.values() if value.kind == "branch"]

    def table(self) -> str:
        """Return a plain text table."""
        rows: list[list[str | int | float]] = [
            [v.path, v.kind, v.depth, v.squared_mean, v.variance, _shown(v.ratio, v.kind), v.finite_fraction]
            for v in self.channels.values()
        ]
        header = ["value", "kind", "depth", "channel mean²", "channel variance", "branch / input", "finite"]
        return table(header, rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON; None stands where a number does not exist."""
        return {name: finite_or_none(value) for name, value in super().to_dict().items()}


@block_first
def signal(
    block: Block,
    params: Params,
    x: Any,
    state: State = EMPTY,
    extras: Mapping[str, Any] = EMPTY,
    *,
    training: bool = False,
    noise: Any = None,
    channel_axis: int | None = None,
    group: Group = None,
) -> Signal:
    """Return the average channel squared mean and variance of every tagged stream and branch, from one forward pass.

    All moments are taken in float64, about the mean, so that a large mean does not swallow a small variance.

    Args:
        block: any block that tags its streams; those of `pure.skips` and `pure.nets` do.
        params: its parameters.
        x: the input; unit normal noise in the paper, real data as well.
        state: its state.
        extras: what the network may read.
        training: use batch statistics, as a network with BatchNorm does in the paper.
        noise: as `block.noise` draws it, if training needs it.
        channel_axis: where the channels are; by default the last axis of (batch, positions, channels) and axis 1 of
            everything else.
        group: ranks that each hold a part of the batch, and call this together: a process group or "world"; see
            `pure.spmd`. Every rank gets the result of all samples.
            Moments are taken over all samples, from sums over the ranks.

    Raises:
        UnsupportedError: no stream is tagged, or the block is not pure.
        ArgumentError: no block, a channel axis that is not there, or parameters or an input that hold NaN. A NaN that
            arises inside the network is no error: it is reported by name.
        GroupError: a group without a process group.
        RanksDifferError: what all ranks share differs between them.
        PeerFailedError: another rank failed.

    Source: Brock et al. 2021 (2101.08692), section 3 and appendix B.

    Example:
        >>> from pure import Linear, Residual, Sequential
        >>> net = Sequential(Residual(Linear(2, 2)), Residual(Linear(2, 2)))
        >>> params, _ = net.init(torch.Generator())
        >>> for layer in params.values():
        ...     layer["branch"] = {"weight": torch.eye(2), "bias": torch.zeros(2)}
        >>> result = signal(net, params, torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        >>> result.input_variance, result["0.branch"].ratio, result["1.stream"].variance
        (0.5, 1.0, 8.0)
    """
    with over_ranks("signal", group, params=params) as whole:
        return _signal(block, params, x, state, extras, training, noise, channel_axis, whole)


def _signal(
    block: Block,
    params: Params,
    x: Any,
    state: State,
    extras: Mapping[str, Any],
    training: bool,
    noise: Any,
    channel_axis: int | None,
    whole: Whole,
) -> Signal:
    run = of_input("signal", block, params, state, extras, training, noise)
    finite_values(x, "x")
    with torch.no_grad(), purely("signal", params=params, state=state, x=x):
        _, seen = observe(run, ("stream", "branch"), inputs=True)(x)
    steps = steps_of(x, seen)
    if not steps:
        raise missing("signal", "stream", seen)
    found: dict[str, ChannelSignal] = {}
    for depth, step in enumerate(steps):
        for value in _step(step, depth, channel_axis, whole):
            found[value.path] = value
    is_plain = isinstance(x, Tensor) and x.is_floating_point()
    squared_mean, variance = channel_moments(x, channel_axis, whole) if is_plain else (math.nan, math.nan)
    return Signal(found, squared_mean, variance, tuple(v.path for v in found.values() if v.finite_fraction < 1))


def _step(step: Step, depth: int, channel_axis: int | None, whole: Whole) -> Iterator[ChannelSignal]:
    for branch in step.branches:
        before = math.nan if step.x is None else channel_moments(step.x, channel_axis, whole)[1]
        numbers = channel_moments(branch.value, channel_axis, whole)
        ratio = numbers[1] / before if before else math.nan
        yield ChannelSignal(branch.path, "branch", depth, *numbers, ratio, _finite(branch.value, whole))
    numbers = channel_moments(step.y, channel_axis, whole)
    yield ChannelSignal(step.path, "stream", depth, *numbers, math.nan, _finite(step.y, whole))


def _finite(value: Tensor, whole: Whole) -> float:
    if whole.ranks is None:
        return float(torch.isfinite(value).double().mean())
    finite = sum(whole.numbers(int(torch.isfinite(value).sum()), "finite values"))
    return finite / sum(whole.numbers(value.numel(), "values"))


def _shown(ratio: float, kind: str) -> float | str:
    return "-" if kind == "stream" else ratio
