"""The audit's forward sweep: measures every block's output, and keeps only the blocks' inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.errors import UnsupportedError
from pure.flow.activations.channel_moments import Moments, log_moments
from pure.flow.activations.gate_activity import GateShares, gate_shares
from pure.flow.auditing.block_chain import Link, Links
from pure.flow.auditing.chain_sweep import Inputs, floating, outermost_branch, run_link, versions
from pure.tags import Tagged, observe

__all__ = ["SATURATED", "Forward", "Seen", "Stop", "forward", "joint"]

Track = Callable[[Iterable[int], str], Iterable[int]]


SATURATED = (0.01, 0.99)
"""A gate below or above is saturated: its slope is less than 0.01."""


@dataclass(frozen=True)
class Stop:
    """Where the numbers end.

    Attributes:
        name: the block whose output is the first that is not finite.
        depth: its position.
        found: "overflow" (an infinity) or "NaN".
        largest: log10 of the largest absolute value of what went into it.
        bad_parameter: a parameter of the block that itself holds NaN or an infinity, None if all are finite.
        dtype: of the stream.
    """

    name: str
    depth: int
    found: str
    largest: float
    bad_parameter: str | None
    dtype: str


@dataclass(frozen=True)
class Seen:
    """What the forward saw of one block."""

    name: str
    kind: tuple[str, ...]
    stream: Moments
    branch: Moments | None
    branch_path: str | None
    gates: GateShares | None


@dataclass(frozen=True, eq=False)
class Forward:
    """What the forward leaves behind.

    Attributes:
        inputs: the inputs of the blocks, to be taken in reverse; None where the network was run whole.
        before: the moments of the network's input.
        seen: one entry a block.
        output: of the last block whose output was finite.
        stop: where the numbers ended, None if they did not.
    """

    inputs: Inputs | None
    before: Moments
    seen: list[Seen]
    output: Any
    stop: Stop | None


def forward(
    chain: Links,
    x: Any,
    extras: Mapping[str, Any],
    budget_bytes: float,
    track: Track,
    passing: Callable[[int, Any], None] | None = None,
) -> Forward:
    """Run the chain once without gradients.

    Args:
        chain: the links.
        x: what the first is given.
        extras: what the network reads beside.
        budget_bytes: see `Inputs`.
        track: wraps the loop.
        passing: called with each link's position and input before it runs.

    Raises:
        UnsupportedError: a block writes into its input.
    """
    inputs = Inputs(chain, extras, budget_bytes)
    before = joint(floating(x))
    seen: list[Seen] = []
    last = before
    with torch.no_grad():
        for index in track(range(len(chain)), "forward"):
            link = chain[index]
            inputs.keep(index, x)
            if passing is not None:
                passing(index, x)
            written = versions(x)
            y, tagged = observe(run_link, ("branch", "gate"))(link, x, extras)
            if versions(x) != written:
                raise UnsupportedError(
                    f"{link.name or type(link.block).__name__} is not pure: it writes into its input: x = x + y, not "
                    "x += y"
                )
            parts = floating(y)
            measured = joint(parts)
            if not measured.finite:
                inputs.drop(index)
                return Forward(inputs, before, seen, x, _stop(link, index, measured, last, parts))
            seen.append(_seen(link, measured, tagged))
            x, last = y, measured
    return Forward(inputs, before, seen, x, None)


def joint(parts: list[Tensor]) -> Moments:
    """Return the moments of a stream; of several tensors those of all their values, without regard to channels."""
    if len(parts) == 1:
        return log_moments(parts[0])
    return log_moments(torch.cat([part.detach().double().flatten() for part in parts] or [torch.empty(0)]))


def _seen(link: Link, stream: Moments, tagged: list[Tagged]) -> Seen:
    branch = outermost_branch(tagged)
    gates = [entry.value for entry in tagged if entry.kind == "gate" and isinstance(entry.value, Tensor)]
    measured = log_moments(branch.value) if branch is not None else None
    return Seen(link.name, link.kind, stream, measured, branch.path if branch else None, gate_shares(gates, *SATURATED))


def _stop(link: Link, index: int, measured: Moments, last: Moments, parts: list[Tensor]) -> Stop:
    overflow = measured.log10_largest == float("inf")
    bad = [
        name
        for name, leaf in tree.flatten(link.params).items()
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and not torch.isfinite(leaf).all()
    ]
    dtype = str(parts[0].dtype).removeprefix("torch.")
    return Stop(link.name, index, "overflow" if overflow else "NaN", last.log10_largest, bad[0] if bad else None, dtype)
