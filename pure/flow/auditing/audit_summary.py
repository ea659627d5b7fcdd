"""The parts of an audit that do not depend on how the network was run: its objective, and the result of its sweeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pure.flow.auditing.audit_result import Audit, BlockDeletion, BlockFlow, PairNorm, PathShares
from pure.flow.auditing.backward_sweep import Backward, Judge, direction, scaled_loss
from pure.flow.auditing.chain_sweep import floating
from pure.flow.auditing.forward_sweep import Forward, Seen
from pure.flow.auditing.growth_fit import growth
from pure.flow.shared.estimate import half_width
from pure.flow.shared.input_checks import finite, scalar
from pure.flow.shared.log_scale import Scaled
from pure.flow.shared.tracked_leaves import tracked

__all__ = ["Counts", "evenly_spaced", "objective", "summary"]

LOG10_OVERFLOWING_OUTPUT = 12
"""log10 of an output that, rather than the loss's own formula, is to blame for a loss that overflows."""


@dataclass(frozen=True)
class Counts:
    """How much is measured beside gradients: `orders`, `deletions` and `stations` of `audit`."""

    orders: int
    deletions: int
    stations: int

    def boundaries(self, depth: int) -> list[int]:
        """Return the boundaries of so many blocks between which partial Jacobians are measured."""
        return evenly_spaced(depth + 1, self.stations + 1 if self.stations else 0)


def objective(
    done: Forward, loss: Callable[..., Any] | None, targets: Sequence[Any], generator: torch.Generator
) -> tuple[float, Scaled, Judge]:
    """Return the loss, its gradient w.r.t. the output, and the function that judges another output."""
    outputs = [part.detach() for part in floating(done.output)]
    size = max(math.hypot(*(float(part.double().norm()) for part in outputs)), 1e-300)

    def distance(y: Any) -> float:
        pairs = zip(floating(y), outputs, strict=True)
        return math.hypot(*(float((a.double() - b.double()).norm()) for a, b in pairs)) / size

    if loss is None or done.stop is not None:
        return math.nan, direction(done.output, generator), lambda y: (math.nan, distance(y))
    leaves: list[Tensor] = []
    output = tracked(done.output, leaves)
    with torch.enable_grad():
        value = scalar(loss(output, *targets), "the batch's")
    if not torch.isfinite(value) and done.seen[-1].stream.log10_largest > LOG10_OVERFLOWING_OUTPUT:
        return value.item(), direction(done.output, generator), lambda y: (math.nan, distance(y))
    finite(value)
    reference = value.item()

    def judge(y: Any) -> tuple[float, float]:
        with torch.no_grad():
            return float(loss(y, *targets)) - reference, distance(y)

    return reference, scaled_loss(value, leaves), judge


def evenly_spaced(count: int, picked: int) -> list[int]:
    """Return up to `picked` of 0 … count − 1, evenly spread, both ends among them.

    >>> evenly_spaced(10, 4), evenly_spaced(3, 8), evenly_spaced(5, 1), evenly_spaced(5, 0)
    ([0, 3, 6, 9], [0, 1, 2], [0], [])
    """
    if picked <= 1:
        return [0][:picked]
    return sorted({round(at * (count - 1) / (picked - 1)) for at in range(picked)})


def summary(done: Forward, back: Backward | None, loss: float, *, method: Literal["chain", "whole"] = "chain") -> Audit:
    """Return the audit without advice.

    Args:
        done: what the forward measured.
        back: what the backward measured; None where no block's output was finite.
        loss: the loss; NaN where none was given.
        method: see `Audit`.
    """
    blocks: dict[str, BlockFlow] = {}
    before = done.before
    for depth, seen in enumerate(done.seen):
        ratio = math.nan
        if seen.branch is not None and before.log10_second_moment > -math.inf:
            ratio = 10 ** ((seen.branch.log10_second_moment - before.log10_second_moment) / 2)
        low, middle, high = back.bands[depth] if back else [math.nan] * 3
        blocks[seen.name] = BlockFlow(
            name=seen.name,
            kind=seen.kind[0],
            depth=depth,
            log10_gradient=back.gradient[depth + 1] if back else math.nan,
            log10_gradient_p10=low,
            log10_gradient_median=middle,
            log10_gradient_p90=high,
            log10_parameter_gradient=back.parameters[depth] if back else math.nan,
            stream=seen.stream,
            branch=seen.branch,
            branch_to_skip=ratio,
            gates=seen.gates,
        )
        before = seen.stream
    start, end = _family(done.seen)
    streams = [done.before, *(seen.stream for seen in done.seen)][start : end + 1]
    gradients = [2 * log for log in back.gradient[start : end + 1]][::-1] if back else []
    return Audit(
        loss=loss,
        method=method,
        blocks=blocks,
        family=tuple(seen.name for seen in done.seen[start:end]),
        log10_input_gradient=back.gradient[0] if back else math.nan,
        input=done.before,
        stream_growth=growth([stream.log10_second_moment for stream in streams]),
        gradient_growth=growth(gradients),
        paths=_paths(done, back) if back and back.paths else None,
        deletions=tuple(
            BlockDeletion(done.seen[at].name, at, *changes)
            for at, changes in sorted(back.deletions.items() if back else ())
        ),
        pairs=tuple(_pair(*ends, back.probes[ends]) for ends in sorted(back.probes)) if back else (),
        stop=done.stop,
        advice=(),
        held=len(done.seen) if done.inputs is None else done.inputs.most,
    )


def _family(seen: Sequence[Seen]) -> tuple[int, int]:
    """Return the range of the longest run of blocks of one kind."""
    best = (0, 0)
    start = 0
    for at in range(len(seen)):
        if seen[at].kind != seen[start].kind:
            start = at
        if at + 1 - start > best[1] - best[0]:
            best = (start, at + 1)
    return best


def _paths(done: Forward, back: Backward) -> PathShares:
    logs = [2 * (log - back.gradient[0]) for log in back.paths]
    shares = tuple(10.0**log if log < 300 else math.inf for log in logs)
    return PathShares(tuple(back.paths), shares, sum(entry.branch_path is not None for entry in done.seen))


def _pair(source: int, target: int, logs: Tensor) -> PairNorm:
    """Average the samples' squared norms on their own scale."""
    top = float(logs.max())
    if not math.isfinite(top):
        return PairNorm(source, target, top, top, top)
    squares = 10 ** (logs - top)
    mean = float(squares.mean())
    half = float(half_width(squares)) if len(squares) > 1 else math.inf
    ends = [top + math.log10(end) if end > 0 else -math.inf for end in (mean, mean - half, mean + half)]
    return PairNorm(source, target, *ends)
