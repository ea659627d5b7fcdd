"""`audit`: all measurements of a network's flow in one forward and one backward sweep, at any depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.block import EMPTY, Block, Params, State
from pure.errors import ArgumentError, UnsupportedError
from pure.flow.auditing.advice import advise
from pure.flow.auditing.audit_result import Audit
from pure.flow.auditing.audit_summary import Counts, evenly_spaced, objective, summary
from pure.flow.auditing.backward_sweep import ChainSteps, backward
from pure.flow.auditing.block_chain import Chain, is_chain
from pure.flow.auditing.chain_sweep import floating
from pure.flow.auditing.depth_split import audit_over_ranks
from pure.flow.auditing.forward_sweep import forward
from pure.flow.auditing.whole.part_audit import audit_parts
from pure.flow.auditing.whole.stream_audit import audit_streams
from pure.flow.shared.block_call import block_first
from pure.flow.shared.input_checks import finite_values, purely
from pure.flow.shared.terminal import Bars
from pure.spmd.agreement import stay_together
from pure.spmd.process_group import Group, Ranks, resolve

__all__ = ["audit"]

MIB = 2**20


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
    group: Group = None,
) -> Audit:
    """Measure gradient, signal, branches, gates, path lengths, deletions and partial Jacobians, and say what to change.

    A chain (`Sequential`, `Repeat`, and those in each other) is walked block by block: the forward keeps the blocks'
    inputs only, the backward pulls back through one block at a time, so memory does not grow with what is inside the
    blocks. Gradients are scaled by powers of 2 on the way and reported as log10: 10,000 blocks neither overflow nor
    vanish. Parameters that `pure.load` has mapped are read from disk as their block's turn comes, so the network may be
    larger than the memory. A stream that itself overflows is reported where it does, with all that was measured before.
    A block that is no chain but tags several streams is run whole, and those stand for the depths; paths, deletions and
    pairs are then left out. So is a network of token indices, which no gradient reaches.

    A module from elsewhere (`from_module`) is run whole too, in the memory of one gradient. Its depths are its residual
    blocks, by the names of its submodules, and the submodules between them: all that every way from the input to the
    output passes. Paths, deletions and pairs are measured between those. Of an output of several tensors the first is
    meant.

    With `group`, each rank walks a stretch of a chain's blocks: streams go up from rank to rank, gradients come down.
    All ranks give the same and get the same, which is what one process finds bit for bit, `held` excepted: that is the
    most of any rank. A rank uses its own blocks' parameters and keeps their inputs, so W ranks audit a network of W
    times the memory. The sweeps pass one rank after another; deletions run on all ranks at once.

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
        progress: show bars; of several ranks rank 0 shows its steps.
        group: the ranks that the depth is split over: a process group, or "world"; None for one process.

    Raises:
        ArgumentError: no block, a chain without blocks, an input that holds NaN, a negative count, or an input
            without floating-point tensors to a network that tags less than two streams.
        UnsupportedError: a block that is not pure, a loss that is NaN, called inside a transform, or with `group` a
            network that is no chain.
        ShapeError: a loss that is no scalar.
        GroupError: no process group, or a process that is not in it.
        RanksDifferError: the ranks give different inputs, parameters or generators, or are at different calls.
        PeerFailedError: another rank failed.

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
    ranks = None if group is None else resolve(group)
    with nullcontext() if ranks is None else stay_together(ranks):
        counts = Counts(orders, deletions, stations)
        budget, shown = budget_mib * MIB, progress and (ranks is None or ranks.rank == 0)
        return _audit(block, params, x, state, extras, loss, targets, counts, generator, budget, shown, ranks)


def _audit(
    block: Block,
    params: Params,
    x: Any,
    state: State,
    extras: Mapping[str, Any],
    loss: Callable[..., Any] | None,
    targets: Sequence[Any],
    counts: Counts,
    generator: torch.Generator | None,
    budget_bytes: float,
    progress: bool,
    ranks: Ranks | None,
) -> Audit:
    """Return the audit; the arguments are those of `audit`, checked here."""
    for what, count, least in (
        ("orders", counts.orders, -1),
        ("deletions", counts.deletions, 0),
        ("stations", counts.stations, 0),
    ):
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
        if ranks is not None:
            raise UnsupportedError(
                f"audit of {type(block).__name__} with group=: it runs whole, so there is no depth to split: expected "
                "a Sequential or Repeat and an input of floating-point tensors; leave out group"
            )
        found = audit_parts(block, params, x, state, extras, loss, targets, generator, counts, progress)
        if found is None:
            found = audit_streams(block, params, x, state, extras, loss, targets, generator)
        if found is not None:
            return advise(found, chain)
    if tokens:
        raise ArgumentError("audit of an input without floating-point tensors: no gradient reaches it")
    with Bars(progress) as track, purely("audit", params=params, state=state):
        if ranks is not None:
            split = audit_over_ranks(
                chain,
                x,
                extras,
                ranks,
                loss=loss,
                targets=targets,
                counts=counts,
                generator=generator,
                budget_bytes=budget_bytes,
                track=track,
                trees=(params, state),
            )
            return advise(split, chain)
        done = forward(chain, x, extras, budget_bytes, track)
        depth = len(done.seen)
        if depth == 0:
            return advise(summary(done, None, math.nan), chain)
        value, cotangent, judge = objective(done, loss, targets, generator)
        back = backward(
            ChainSteps(chain, done, extras),
            done,
            cotangent,
            orders=counts.orders if any(entry.branch_path for entry in done.seen) else -1,
            stations=counts.boundaries(depth),
            deleted=[] if done.stop else evenly_spaced(depth, counts.deletions),
            judge=judge,
            generator=generator,
            track=track,
        )
    return advise(summary(done, back, value), chain)
