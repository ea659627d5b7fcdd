"""`audit`: all measurements of a network's flow in one forward and one backward sweep, at any depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Block, Params, State
from pure.errors import ArgumentError
from pure.flow.auditing.advice import advise
from pure.flow.auditing.audit_result import Audit, BlockDeletion, BlockFlow, PairNorm, PathShares
from pure.flow.auditing.backward_sweep import Backward, Judge, backward, direction, scaled_loss
from pure.flow.auditing.block_chain import Chain, is_chain
from pure.flow.auditing.chain_sweep import floating
from pure.flow.auditing.forward_sweep import Forward, Seen, forward
from pure.flow.auditing.growth_fit import growth
from pure.flow.auditing.stream_audit import audit_streams
from pure.flow.shared.block_call import block_first
from pure.flow.shared.estimate import half_width
from pure.flow.shared.input_checks import finite, finite_values, purely, scalar
from pure.flow.shared.log_scale import Scaled
from pure.flow.shared.terminal import Bars
from pure.flow.shared.tracked_leaves import tracked

__all__ = ["audit"]

MIB = 2**20
LOG10_OVERFLOWING_OUTPUT = 12
"""log10 of an output that, rather than the loss's own formula, is to blame for a loss that overflows."""


@block_first
def audit(
    block: Block,
    params: Params,
    x: Any,
    state: State = EMPTY,
    extras: Mapping[str, Any] = EMPTY,
    *,
    loss: Callable[..., Any] | None = None,
    targets: Sequence[Any] = (),
    orders: int = 3,
    deletions: int = 8,
    stations: int = 4,
    generator: torch.Generator | None = None,
    budget_mib: float = 512.0,
    progress: bool = False,
) -> Audit:
    """Measure gradient, signal, branches, gates, path lengths, deletions and partial Jacobians, and say what to change.

    A chain (`Sequential`, `Repeat`, and those in each other) is walked block by block: the forward keeps the blocks'
    inputs only, the backward pulls back through one block at a time, so memory does not grow with what is inside the
    blocks. Gradients are scaled by powers of 2 on the way and reported as log10: 10,000 blocks neither overflow nor
    vanish. A stream that itself overflows is reported where it does, with all that was measured before. A block
    that is no chain but tags several streams is run whole, and those stand for the depths; paths, deletions and pairs
    are then left out. So is a network of token indices, which no gradient reaches.

    Everything is in evaluation.

    Args:
        block: the network.
        params: its parameters.
        x: the input, batch first.
        state: the network's state.
        extras: what the network reads beside its input.
        loss: `loss(output, *targets)`, the batch's scalar loss; None for a random unit direction of the output, so that
            gradients are those of a random linear functional: E‖∂loss/∂x‖² is then ‖J‖²_F / (values of the output). The
            same direction stands in where the stream stops, or is above 1e12 and the loss overflows.
        targets: what the loss takes after the output.
        orders: the longest path, in branches, whose part of the input gradient is told apart; −1 for none.
        deletions: how many blocks are deleted, one at a time, evenly over the depth.
        stations: between how many depths, evenly spread, partial Jacobian norms are estimated.
        generator: draws the directions; None for a new one of seed 0.
        budget_mib: memory for the blocks' inputs; beyond it only every √depth-th is kept and the others run again.
        progress: show bars.

    Raises:
        ArgumentError: no block, a chain without blocks, an input that holds NaN, a negative count, or an input
            without floating-point tensors to a network that tags less than two streams.
        UnsupportedError: a block that is not pure, a loss that is NaN, or called inside a transform.
        ShapeError: a loss that is no scalar.

    Source: Balduzzi et al. 2017 (1702.08591) for gradients by depth; Brock et al. 2021 (2101.08692), section 2, for the
        signal; Veit et al. 2016 (1605.06431) for paths and deletions; Doshi et al. 2021 (2111.12143) for partial
        Jacobians.

    Example:
        >>> from pure import nets
        >>> net = nets.residual_mlp(8, 16, depth=12)
        >>> params, _ = net.init(torch.Generator().manual_seed(0))
        >>> found = audit(net, params, torch.randn(4, 8, generator=torch.Generator().manual_seed(1)))
        >>> found
        Audit(12 blocks, chain, 0 advice: no advice)
        >>> found.pairs[-1].target, len(found.deletions), found.method
        (12, 8, 'chain')
    """
    for what, count, least in (("orders", orders, -1), ("deletions", deletions, 0), ("stations", stations, 0)):
        if count < least:
            raise ArgumentError(f"audit {what}={count}: expected at least {least}")
    chain = Chain(block, params, state)
    if len(chain) == 0:
        raise ArgumentError(f"audit of {block!r}: it holds no blocks: there is no depth to audit")
    finite_values(x, "x")
    generator = generator or torch.Generator().manual_seed(0)
    x = tree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, x)
    tokens = not floating(x)
    if tokens or (len(chain) == 1 and not is_chain(block)):
        found = audit_streams(block, params, x, state, extras, loss, targets, generator)
        if found is not None:
            return advise(found, chain)
    if tokens:
        raise ArgumentError("audit of an input without floating-point tensors: no gradient reaches it")
    with Bars(progress) as track, purely("audit", params=params, state=state):
        done = forward(chain, x, extras, budget_mib * MIB, track)
        depth = len(done.seen)
        if depth == 0:
            return advise(_result(chain, done, None, math.nan), chain)
        value, cotangent, judge = _objective(done, loss, targets, generator)
        back = backward(
            chain,
            done,
            cotangent,
            extras,
            orders=orders if any(entry.branch_path for entry in done.seen) else -1,
            stations=_evenly_spaced(depth + 1, stations + 1 if stations else 0),
            deleted=[] if done.stop else _evenly_spaced(depth, deletions),
            judge=judge,
            generator=generator,
            track=track,
        )
    return advise(_result(chain, done, back, value), chain)


def _objective(
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


def _evenly_spaced(count: int, picked: int) -> list[int]:
    """Return up to `picked` of 0 … count − 1, evenly spread, both ends among them.

    >>> _evenly_spaced(10, 4), _evenly_spaced(3, 8), _evenly_spaced(5, 1), _evenly_spaced(5, 0)
    ([0, 3, 6, 9], [0, 1, 2], [0], [])
    """
    if picked <= 1:
        return [0][:picked]
    return sorted({round(at * (count - 1) / (picked - 1)) for at in range(picked)})


def _result(chain: Chain, done: Forward, back: Backward | None, loss: float) -> Audit:
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
        method="chain",
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
        held=done.inputs.most,
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
