"""The audit of a chain whose depth is split over the ranks of a process group.

Rank r has the r-th stretch of the blocks. In the forward the stream goes up from rank to rank, and behind it the
streams without one block's branch, one a step, so that all ranks are at work. In the backward the cotangent, its parts
by path length, the random probes and the state of the generator come down. Each rank reads the parameters of its own
blocks and keeps their inputs only; numbers are those of one process, bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.errors import UnsupportedError
from pure.flow.auditing.audit_result import Audit
from pure.flow.auditing.audit_summary import Counts, evenly_spaced, objective, summary
from pure.flow.auditing.backward_sweep import Backward, Carried, ChainSteps, Judge, swept, without_branch
from pure.flow.auditing.block_chain import Chain, Span
from pure.flow.auditing.chain_sweep import run_link
from pure.flow.auditing.forward_sweep import Forward, Seen, Stop, Track, forward
from pure.flow.shared.over_ranks import Whole, digest
from pure.spmd.agreement import meet
from pure.spmd.process_group import Ranks
from pure.spmd.transfer import collected, shifted

__all__ = ["audit_over_ranks", "stretches"]

COMPARED_LEAVES = 64
"""Of how many leaves, evenly spread, the ranks compare three values each."""


def stretches(depth: int, ranks: int) -> list[tuple[int, int]]:
    """Return where each rank's blocks start and stop; the first ranks get those that are left over.

    >>> stretches(7, 3), stretches(1, 2)
    ([(0, 3), (3, 5), (5, 7)], [(0, 1), (1, 1)])
    """
    each, left = divmod(depth, ranks)
    starts = [rank * each + min(rank, left) for rank in range(ranks + 1)]
    return list(pairwise(starts))


def audit_over_ranks(
    chain: Chain,
    x: Any,
    extras: Mapping[str, Any],
    ranks: Ranks,
    *,
    loss: Callable[..., Any] | None,
    targets: Sequence[Any],
    counts: Counts,
    generator: torch.Generator,
    budget_bytes: float,
    track: Track,
    trees: tuple[tree.Tree, tree.Tree],
) -> Audit:
    """Return the audit without advice, on every rank.

    Args:
        chain: the links, on every rank all of them.
        x: the network's input.
        extras: what the network reads beside it.
        ranks: the group.
        loss: see `audit`, as `targets` and `generator`.
        targets: what the loss takes after the output.
        counts: how much is measured beside gradients.
        generator: draws the directions.
        budget_bytes: memory for the inputs of a rank's blocks.
        track: wraps the loop over a sweep's steps.
        trees: parameters and state, which are compared between ranks.

    Raises:
        RanksDifferError: what was given differs between ranks.
        PeerFailedError: another rank failed.
        UnsupportedError: leaves that are parts of a whole themselves, such as DTensors.
    """
    if chain.in_parts:
        raise UnsupportedError(
            "audit with group= of leaves of another tensor class: the depth is split, so the ranks would put them "
            "together at different times: give plain tensors (x.full_tensor()), or leave out group"
        )
    _compare(ranks, len(chain), counts, generator, trees, (x, extras, targets))
    start, stop = stretches(len(chain), ranks.size)[ranks.rank]
    up = _Forward(Span(chain, start, stop), extras, evenly_spaced(len(chain), counts.deletions))
    up.run(ranks, x, budget_bytes, len(chain), track)
    whole = _Whole.of(ranks, up)
    done = whole.done(up.output)
    depth, top = len(done.seen), whole.top
    if depth == 0:
        return summary(done, None, math.nan)
    own, handed, value = Backward([], [], [], [], {}, {}), None, math.nan
    stations = counts.boundaries(depth)
    for rank in track(range(top, -1, -1), "backward"):
        given = shifted(ranks, f"audit: cotangents from rank {rank + 1}", handed, by=-1) if rank < top else None
        handed = None
        if rank != ranks.rank:
            continue
        deletions: dict[int, tuple[float, float]] = {}
        if given is None:
            value, cotangent, judge = objective(done, loss, targets, generator)
            branched = any(entry.branch_path for entry in done.seen)
            begun = Carried.begun(cotangent, counts.orders if branched else -1)
            deletions = {} if done.stop else up.judged(judge)
        else:
            begun, state = given
            generator.set_state(state)
        own, carried = _pulled(up, begun, stations, generator)
        own.deletions.update(deletions)
        own.paths.extend(path.log10_norm() for path in carried.paths)
        handed = carried, generator.get_state()
    pieces = collected(ranks, "audit: what each rank found", (own, value, generator.get_state()))
    generator.set_state(pieces[0][2])
    found = summary(done, _joined([piece[0] for piece in pieces[: top + 1]]), pieces[top][1])
    return dataclasses.replace(found, held=whole.held)


def _compare(
    ranks: Ranks,
    depth: int,
    counts: Counts,
    generator: torch.Generator,
    trees: tree.Tree,
    inputs: tree.Tree,
) -> None:
    """Raise unless all ranks were given the same; of parameters few values are compared, as few are in memory.

    Raises:
        RanksDifferError: they were not.
    """
    asked = f"orders={counts.orders}, deletions={counts.deletions}, stations={counts.stations}"
    meet(ranks, f"the start of audit of {depth} blocks, {asked}, generator in state {digest(generator)}")
    whole = Whole("audit", ranks)
    leaves = [leaf for leaf in tree.leaves(trees) if isinstance(leaf, Tensor)]
    filled = [leaf for leaf in leaves if leaf.numel()]
    some = filled[:: -(-len(filled) // COMPARED_LEAVES) or 1]
    whole.shared([_numbers(_few(leaf)) for leaf in some], "parameters and state")
    given = [leaf for leaf in tree.leaves(inputs) if isinstance(leaf, Tensor) and leaf.numel()]
    whole.shared([_numbers(leaf) for leaf in given], "the input and the targets")


def _few(leaf: Tensor) -> Tensor:
    """Return the first, the middle and the last value of a leaf."""
    if leaf.ndim == 0:
        return leaf
    places = torch.tensor([0, leaf.numel() // 2, leaf.numel() - 1], device=leaf.device)
    return leaf.detach()[torch.unravel_index(places, leaf.shape)]


def _numbers(leaf: Tensor) -> Tensor:
    """Return values in float64; NaN, which is not equal to itself, counts as a number here."""
    wide = torch.view_as_real(leaf.detach()) if leaf.is_complex() else leaf.detach()
    return torch.nan_to_num(wide.double(), nan=1.5)


class _Forward:
    """The forward sweep of one rank: the stream through its blocks, then the streams without one block's branch.

    Args:
        span: this rank's links.
        extras: what the network reads beside its input.
        deleted: positions of the blocks to delete, in the whole chain.

    Attributes:
        done: what the stream left in this rank's blocks; None where it never came.
        output: of this rank's last block.
    """

    def __init__(self, span: Span, extras: Mapping[str, Any], deleted: Sequence[int]) -> None:
        self.span, self.extras, self.deleted = span, extras, deleted
        self.done: Forward | None = None
        self.output: Any = None
        self._inputs: dict[int, Any] = {}
        self._outputs: dict[int, Any] = {}

    def run(self, ranks: Ranks, x: Any, budget_bytes: float, depth: int, track: Track) -> None:
        """Take what comes from below through this rank's blocks: the stream at step r, deletions at those after it."""
        items = [-1, *self.deleted]  # first the stream itself
        below: Any = (x,) if ranks.rank == 0 else None
        for step in track(range(ranks.size + len(items) - 1), "forward"):
            at = step - ranks.rank
            above = None
            if at == 0 and below is not None:
                above = self._stream(below[0], budget_bytes)
            elif 0 < at < len(items) and self.done is not None and self.done.stop is None:
                above = self._deletion(items[at], below)
                if above is not None and ranks.rank == ranks.size - 1:
                    self._outputs[items[at]] = above[0]
            below = shifted(ranks, f"audit: block inputs, step {step} of {depth} blocks", above, by=1)

    def _stream(self, x: Any, budget_bytes: float) -> Any:
        def noted(index: int, given: Any) -> None:
            if self.span.start + index in self.deleted:
                self._inputs[self.span.start + index] = given

        self.done = forward(self.span, x, self.extras, budget_bytes, lambda loop, _: loop, noted)
        self.output = self.done.output
        if self.done.stop is not None:
            stop = dataclasses.replace(self.done.stop, depth=self.span.start + self.done.stop.depth)
            self.done = dataclasses.replace(self.done, stop=stop)
            return None
        return (self.output,)

    def _deletion(self, position: int, below: Any) -> Any:
        """Return the output without the block at a position: of one below, or of this rank's own."""
        if position >= self.span.stop or (below is None and position < self.span.start):
            return None
        if position >= self.span.start:
            index = position - self.span.start
            y = without_branch(self.span[index], self._inputs.pop(position), self.extras)
            if y is None:
                return None
        else:
            index, (y,) = -1, below
        with torch.no_grad():
            for at in range(index + 1, len(self.span)):
                y = run_link(self.span[at], y, self.extras)
        return (y,)

    def judged(self, judge: Judge) -> dict[int, tuple[float, float]]:
        """Return the judge's measures of each output without a block; on the last rank."""
        return {position: judge(y) for position, y in self._outputs.items()}


@dataclass(frozen=True)
class _Whole:
    """What the forward sweeps of all ranks have measured.

    Attributes:
        top: the rank with the last block whose output was finite, or that the output came to.
        seen: of all blocks.
        held: the most streams that a rank held.
    """

    top: int
    first: Forward
    seen: list[Seen]
    stop: Stop | None
    held: int

    @classmethod
    def of(cls, ranks: Ranks, up: _Forward) -> _Whole:
        """Return it on every rank."""
        own = up.done
        said = None
        if own is not None:
            most = own.inputs.most if own.inputs is not None else 0
            said = (dataclasses.replace(own, inputs=None, output=None), most)
        parts = [part for part in collected(ranks, "audit: the forward", said) if part is not None]
        seen = [entry for done, _ in parts for entry in done.seen]
        return cls(len(parts) - 1, parts[0][0], seen, parts[-1][0].stop, max(most for _, most in parts))

    def done(self, output: Any) -> Forward:
        """Return what one process's forward leaves, with this rank's output."""
        return Forward(None, self.first.before, self.seen, output, self.stop)


def _pulled(
    up: _Forward, begun: Carried, stations: Sequence[int], generator: torch.Generator
) -> tuple[Backward, Carried]:
    """Pull back through this rank's blocks."""
    assert up.done is not None
    depth = len(up.done.seen)
    steps = ChainSteps(up.span, up.done, up.extras)
    as_it_is: Track = lambda loop, _: loop  # noqa: E731
    return swept(steps, depth, up.output, begun, stations, generator, as_it_is, start=up.span.start)


def _joined(parts: Sequence[Backward]) -> Backward:
    """Return what was measured on all ranks, from the first to the last."""
    found = Backward([], [], [], list(parts[0].paths), {}, {})
    for part in parts:
        found.gradient.extend(part.gradient[:-1])
        found.bands.extend(part.bands)
        found.parameters.extend(part.parameters)
        found.probes.update(part.probes)
        found.deletions.update(part.deletions)
    found.gradient.append(parts[-1].gradient[-1])
    return found
