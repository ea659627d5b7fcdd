"""The audit of a block whose submodules tag their outputs: run whole, cut and pulled back part by part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.block import Block, Params, State
from pure.flow.activations.channel_moments import Moments, log_moments
from pure.flow.activations.gate_activity import gate_shares
from pure.flow.auditing.audit_result import Audit, BlockFlow
from pure.flow.auditing.audit_summary import Counts, evenly_spaced, objective, summary
from pure.flow.auditing.backward_sweep import backward
from pure.flow.auditing.chain_sweep import Pull, floating
from pure.flow.auditing.forward_sweep import SATURATED, Forward, Seen, Stop, joint
from pure.flow.auditing.growth_fit import growth
from pure.flow.auditing.whole.network_parts import Cut, CutRun, PartRow, cut_run, rows_of
from pure.flow.shared.input_checks import purely
from pure.flow.shared.terminal import Bars
from pure.tags import Tagged, substitute

__all__ = ["audit_parts"]


def audit_parts(
    block: Block,
    params: Params,
    x: Any,
    state: State,
    extras: Mapping[str, Any],
    loss: Callable[..., Any] | None,
    targets: Sequence[Any],
    generator: torch.Generator,
    counts: Counts,
    progress: bool,
) -> Audit | None:
    """Return the audit without advice; None for a block whose submodules tag nothing, or that has fewer than two parts.

    Args:
        block: the block.
        params: its parameters.
        x: its input; for one without floating-point tensors the residual blocks alone are listed, without paths,
            deletions and pairs.
        state: its state.
        extras: what it reads beside its input.
        loss: see `audit`, as `targets` and `generator`.
        targets: what the loss takes after the output.
        generator: draws the directions.
        counts: how much is measured beside gradients.
        progress: show bars.
    """
    with Bars(progress) as track, purely("audit", params=params, state=state, x=x):
        rows = rows_of(cut_run(block, params, x, state, extras))
        tokens = not floating(x)
        if len(rows) < 2 or (tokens and sum(row.residual for row in rows) < 2):
            return None
        only = {row.path for row in rows} | {row.branch for row in rows if row.branch}
        run = cut_run(block, params, x, state, extras, only)
        first = next((at for at, row in enumerate(rows) if row.residual), 0) if tokens else 0
        steps = _Steps(run, rows, first, lambda change: _changed(block, change, (params, x, state, extras)))
        done = _forward(run, steps, joint(floating(x)))
        if not done.seen:
            return summary(done, None, math.nan, method="whole")
        whole = _of_first(loss, run.y) if done.stop is None else loss
        value, cotangent, judge = objective(done, whole, targets, generator)
        depth = len(done.seen)
        counts = Counts(-1, 0, 0) if tokens else counts
        back = backward(
            steps,
            done,
            cotangent,
            orders=counts.orders if any(entry.branch_path for entry in done.seen) else -1,
            stations=counts.boundaries(depth),
            deleted=[] if done.stop else evenly_spaced(depth, counts.deletions),
            judge=judge,
            generator=generator,
            track=track,
        )
    found = summary(done, back, value, method="whole")
    return _residual_alone(found) if tokens else found


def _of_first(loss: Callable[..., Any] | None, y: Any) -> Callable[..., Any] | None:
    """Return the loss as a function of the first floating-point tensor of the output."""
    if loss is None or isinstance(y, Tensor):
        return loss
    first = floating(y)[0]

    def of_tensor(tensor: Tensor, *targets: Any) -> Any:
        return loss(tree.tree_map(lambda leaf: tensor if leaf is first else leaf, y), *targets)

    return of_tensor


def _changed(block: Block, change: Callable[[Tagged], Any], given: tuple[Any, ...]) -> Tensor:
    """Return the first tensor of the output when tagged values are replaced."""
    with torch.no_grad():
        return floating(substitute(block, change, ("stream", "branch", "output"))(*given))[0]


class _Steps:
    """The parts of one run, from the last to the first."""

    def __init__(
        self, run: CutRun, rows: list[PartRow], first: int, changed: Callable[[Callable[[Tagged], Any]], Tensor]
    ) -> None:
        self.run, self.first, self.changed = run, first, changed
        self.rows = rows[first:]
        by_path = {path: cut for cut in run.cuts for path in (cut.path, *(("",) if "" in cut.names else ()))}
        self.cuts: list[Cut] = [by_path[row.path] for row in self.rows]
        self.branches = [by_path[row.branch] if row.branch else None for row in self.rows]
        self.start = [by_path[rows[first - 1].path].leaf] if first else run.inputs

    def _inputs(self, index: int) -> list[Tensor]:
        return [self.cuts[index - 1].leaf] if index else self.start

    def pull(self, index: int, *, split: bool) -> Pull:
        """Return a part, ready to be pulled back through."""
        cut, branch = self.cuts[index], self.branches[index]
        used = cut.leaves if branch is None else cut.leaves | branch.leaves
        pull = Pull()
        pull.inputs, pull.outputs = self._inputs(index), [cut.value]
        pull.leaves = [self.run.params[at] for at in sorted(used)]
        if branch is not None:
            pull.before, pull.behind = branch.value, branch.leaf
        return pull

    def source(self, index: int) -> Any:
        """Return what the part was given."""
        found = [leaf.detach() for leaf in self._inputs(index)]
        return found[0] if len(found) == 1 else found

    def without(self, index: int) -> Any:
        """Return the output without the part's branches, or past a part without one; None if its shapes differ."""
        row = self.rows[index]
        inside = f"{row.name}."
        if row.residual:

            def silent(tagged: Tagged) -> Any:
                own = tagged.kind == "branch" and (tagged.path == row.branch or tagged.path.startswith(inside))
                return torch.zeros_like(tagged.value) if own else tagged.value

            return self.changed(silent)
        given, after = self._inputs(index), self.cuts[index].value
        if len(given) != 1 or given[0].shape != after.shape:
            return None
        if not row.path:
            return given[0].detach()
        return self.changed(lambda tagged: given[0].detach() if tagged.path == row.path else tagged.value)


def _forward(run: CutRun, steps: _Steps, before: Moments) -> Forward:
    """Return what a forward sweep would have measured."""
    if steps.first:
        before = joint(steps.start)
    seen: list[Seen] = []
    last, output = before, steps.source(0)
    positions = [run.cuts.index(cut) for cut in steps.cuts]
    for index, (row, cut) in enumerate(zip(steps.rows, steps.cuts, strict=True)):
        stream = log_moments(cut.value.detach())
        if not stream.finite:
            what = "overflow" if stream.log10_largest == math.inf else "NaN"
            dtype = str(cut.value.dtype).removeprefix("torch.")
            stop = Stop(row.name, index, what, last.log10_largest, None, dtype)
            return Forward(None, before, seen, output, stop)
        start = positions[index - 1] if index else -1
        gates = [value for place, value in run.gates if start < place <= positions[index]]
        branch = steps.branches[index]
        measured = log_moments(branch.value.detach()) if branch is not None else None
        kind = "stream" if row.residual else "module"
        seen.append(Seen(row.name, (kind,), stream, measured, row.branch, gate_shares(gates, *SATURATED)))
        last, output = stream, cut.value.detach()
    return Forward(None, before, seen, output, None)


def _residual_alone(found: Audit) -> Audit:
    """Return the audit of a network of token indices: its residual blocks."""
    rows = [row for row in found.blocks.values() if row.kind == "stream"]
    blocks: dict[str, BlockFlow] = {row.name: replace(row, depth=at) for at, row in enumerate(rows)}
    return replace(
        found,
        blocks=blocks,
        family=tuple(blocks),
        log10_input_gradient=math.nan,
        stream_growth=growth([row.stream.log10_second_moment for row in rows]),
        gradient_growth=growth([2 * row.log10_gradient for row in rows][::-1]),
        held=len(rows),
    )
