"""The audit of a block that is no chain: run as a whole, its tagged streams stand for the depths."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pure.block import Block, Params, State
from pure.flow.activations.channel_moments import Moments, log_moments
from pure.flow.activations.gate_activity import gate_shares
from pure.flow.activations.gradients_by_depth import GradientNorms, gradient_norms
from pure.flow.auditing.audit_result import Audit, BlockFlow
from pure.flow.auditing.backward_sweep import direction
from pure.flow.auditing.chain_sweep import floating
from pure.flow.auditing.forward_sweep import SATURATED, Stop, joint
from pure.flow.auditing.growth_fit import growth
from pure.flow.shared.input_checks import purely
from pure.flow.shared.log_scale import log10
from pure.tags import INPUT, Tagged, observe

__all__ = ["audit_streams"]


def audit_streams(
    block: Block,
    params: Params,
    x: Any,
    state: State,
    extras: Mapping[str, Any],
    loss: Callable[..., Any] | None,
    targets: Sequence[Any],
    generator: torch.Generator,
) -> Audit | None:
    """Return the audit of one block by its tags, without paths, deletions and pairs; None for less than two streams."""
    with torch.no_grad(), purely("audit", params=params, state=state, x=x):
        y, noted = observe(block, inputs=True)(params, x, state, extras)
    seen = [tagged for tagged in noted if tagged.kind not in (INPUT, "output")]
    streams = _streams(seen)
    if len(streams) < 2:
        return None
    stop = _stop(block, seen, floating(y), joint(floating(x)))
    norms = None if stop else gradient_norms(_loss(block, y, state, extras, loss, targets, generator), params, x)
    before = joint(floating(x) or _first_stream(noted, streams[0][0].path))
    blocks: dict[str, BlockFlow] = {}
    for tagged, found in streams:
        name = tagged.path.rpartition(".")[0] if tagged.path.rpartition(".")[2] == "stream" else tagged.path
        name = name if name and name not in blocks else tagged.path
        stream = log_moments(tagged.value)
        branches = [entry.value for entry in found if entry.kind == "branch" and isinstance(entry.value, Tensor)]
        gates = [entry.value for entry in found if entry.kind == "gate" and isinstance(entry.value, Tensor)]
        branch = log_moments(branches[-1]) if branches else None
        ratio = math.nan
        if branch is not None and before.log10_second_moment > -math.inf:
            ratio = 10 ** ((branch.log10_second_moment - before.log10_second_moment) / 2)
        blocks[name] = BlockFlow(
            name,
            "stream",
            len(blocks),
            *_gradient(norms, tagged.path),
            log10(norms.blocks[name].l2) if norms and name in norms.blocks else math.nan,
            stream,
            branch,
            ratio,
            gate_shares(gates, *SATURATED),
        )
        before = stream
    gradients = [2 * flow.log10_gradient for flow in blocks.values()][::-1]
    return Audit(
        loss=norms.loss if norms and loss else math.nan,
        method="whole",
        blocks=blocks,
        family=tuple(blocks),
        log10_input_gradient=math.nan,
        input=joint(floating(x)),
        stream_growth=growth([flow.stream.log10_second_moment for flow in blocks.values()]),
        gradient_growth=growth(gradients),
        paths=None,
        deletions=(),
        pairs=(),
        stop=stop,
        advice=(),
        held=len(blocks),
    )


def _loss(
    block: Block,
    y: Any,
    state: State,
    extras: Mapping[str, Any],
    loss: Callable[..., Any] | None,
    targets: Sequence[Any],
    generator: torch.Generator,
) -> Callable[..., Any]:
    if loss is not None:
        return lambda params, x: loss(block(params, x, state, extras), *targets)
    towards = direction(y, generator).parts

    def along(params: Params, x: Any) -> Tensor:
        outputs = floating(block(params, x, state, extras))
        return torch.stack([(part * unit).sum() for part, unit in zip(outputs, towards, strict=True)]).sum()

    return along


def _streams(seen: Sequence[Tagged]) -> list[tuple[Tagged, list[Tagged]]]:
    """Return the tagged streams, each with what was tagged since the one before."""
    found: list[tuple[Tagged, list[Tagged]]] = []
    since: list[Tagged] = []
    for tagged in seen:
        if tagged.kind == "stream" and isinstance(tagged.value, Tensor):
            found.append((tagged, since))
            since = []
        else:
            since.append(tagged)
    return found


def _first_stream(noted: Sequence[Tagged], path: str) -> list[Tensor]:
    """Return what the block of the first stream was given, for a network whose own input is no stream."""
    block = path.rpartition(".")[0]
    return next((floating(given.value) for given in noted if given.kind == INPUT and given.path == block), [])


def _gradient(norms: GradientNorms | None, path: str) -> tuple[float, float, float, float]:
    if norms is None or path not in norms.activations:
        return math.nan, math.nan, math.nan, math.nan
    found = norms.activations[path]
    return log10(found.l2), log10(found.p10), log10(found.median), log10(found.p90)


def _stop(block: Block, seen: Sequence[Tagged], outputs: Sequence[Tensor], before: Moments) -> Stop | None:
    last = before
    tensors = [(tagged.path, tagged.value) for tagged in seen if isinstance(tagged.value, Tensor)]
    for depth, (path, value) in enumerate([*tensors, *((type(block).__name__, part) for part in outputs)]):
        found = log_moments(value)
        if not found.finite:
            what = "overflow" if found.log10_largest == math.inf else "NaN"
            return Stop(path, depth, what, last.log10_largest, None, str(value.dtype).removeprefix("torch."))
        last = found
    return None
