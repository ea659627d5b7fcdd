"""A block that runs as a whole, cut where everything passes: at its residual streams and between its submodules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pure.flow.auditing.block_chain import MAX_LINK_CHILDREN
from pure.flow.auditing.chain_sweep import floating, outermost_branch
from pure.flow.shared.tracked_leaves import tracked
from pure.tags import Tagged, substitute

__all__ = ["Cut", "CutRun", "PartRow", "cut_run", "rows_of"]

STREAM = ".stream"


@dataclass(eq=False)
class Cut:
    """A tagged value and the new leaf that all behind it is computed from.

    Attributes:
        path: where it was tagged first.
        names: {path: kind} of all tags of the value.
        value: as it was computed.
        leaf: as it goes on.
        sources: the positions of the cuts that it was computed from; −1 is the input.
        leaves: the parameters that were used on the way, by position.
    """

    path: str
    names: dict[str, str]
    value: Tensor
    leaf: Tensor
    sources: frozenset[int]
    leaves: frozenset[int]


@dataclass(eq=False)
class CutRun:
    """One run of a block, cut.

    Attributes:
        inputs: the floating-point tensors of the input.
        params: those of the parameters.
        cuts: in order; the last is the output, with the path "".
        gates: (how many cuts were before it, the value) of tagged gates.
        y: what the block returned.
    """

    inputs: list[Tensor] = field(default_factory=list)
    params: list[Tensor] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    gates: list[tuple[int, Tensor]] = field(default_factory=list)
    y: Any = None


@dataclass(frozen=True)
class PartRow:
    """One part of a network: what is computed since the row before.

    Attributes:
        name: of the residual block or the submodule; "output" for what is behind the last.
        path: of the tag at its end; "" is the output.
        residual: whether it ends in a residual stream.
        branch: path of the tag of its only outermost branch; None without one.
    """

    name: str
    path: str
    residual: bool
    branch: str | None


def cut_run(
    run: Callable[..., Any],
    params: Any,
    x: Any,
    state: Any,
    extras: Mapping[str, Any],
    only: Collection[str] | None = None,
) -> CutRun:
    """Run a block once with its tagged values cut; all of them, or those of some paths."""
    found = CutRun()
    params, x = tracked(params, found.params), tracked(x, found.inputs)
    inputs, leaves = {id(leaf) for leaf in found.inputs}, {id(leaf): at for at, leaf in enumerate(found.params)}
    position: dict[int, int] = {}

    def added(path: str, kind: str, value: Tensor, leaf: Tensor) -> None:
        reached = _variables(value)
        sources = frozenset(position[key] for key in reached if key in position)
        if reached & inputs:
            sources |= {-1}
        used = frozenset(leaves[key] for key in reached if key in leaves)
        found.cuts.append(Cut(path, {path: kind}, value, leaf, sources, used))

    def cut(tagged: Tagged) -> Any:
        value = tagged.value
        if not isinstance(value, Tensor) or not value.requires_grad:
            return value
        if tagged.kind == "gate":
            found.gates.append((len(found.cuts), value.detach()))
            return value
        if id(value) in position:
            found.cuts[position[id(value)]].names[tagged.path] = tagged.kind
            return value
        if only is not None and tagged.path not in only:
            return value
        leaf = value.detach().requires_grad_()
        added(tagged.path, tagged.kind, value, leaf)
        position[id(leaf)] = len(found.cuts) - 1
        return leaf

    with torch.enable_grad():
        found.y = substitute(run, cut, ("stream", "branch", "gate", "output"))(params, x, state, extras)
    end = floating(found.y)[:1]
    if end and id(end[0]) in position:
        found.cuts[position[id(end[0])]].names[""] = "output"
    elif end:
        added("", "output", end[0], end[0])
    return found


def _variables(value: Tensor) -> set[int]:
    """Return the ids of the leaves that a value was computed from."""
    seen, waiting, found = set(), [value.grad_fn], set()
    if value.grad_fn is None:
        return {id(value)}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) is not None:
            found.add(id(variable))
        waiting.extend(behind for behind, _ in node.next_functions)
    return found


def rows_of(run: CutRun) -> list[PartRow]:
    """Return the parts of a network, by a run that was cut at every tag; empty where no submodule tags its output."""
    cuts = run.cuts
    if not any("output" in cut.names.values() and cut.path for cut in cuts):
        return []
    passages = _passages(cuts, bool(run.inputs))
    steps = {at: path for at in passages if (path := _stream(cuts[at])) is not None}
    names = {path.removesuffix(STREAM): at for at, path in steps.items()}
    candidates = {at: list(cuts[at].names) for at in passages if at not in steps}
    chosen = _named(candidates, names)
    rows: list[PartRow] = []
    before = -1
    for at in passages:
        cut = cuts[at]
        if at not in steps and at not in chosen and at != passages[-1]:
            continue
        since = [
            Tagged(path, kind, earlier.value)
            for earlier in cuts[before + 1 : at]
            for path, kind in earlier.names.items()
            if kind == "branch"
        ]
        branch = outermost_branch(since) if at in steps else None
        name = steps[at].removesuffix(STREAM) if at in steps else chosen.get(at, "output")
        path = "" if "" in cut.names and at == passages[-1] else cut.path
        rows.append(PartRow(name, path, at in steps, branch.path if branch else None))
        before = at
    return rows


def _stream(cut: Cut) -> str | None:
    return next((path for path, kind in cut.names.items() if kind == "stream"), None)


def _passages(cuts: Sequence[Cut], floats: bool) -> list[int]:
    """Return the cuts that every way from the input to the output passes.

    Without a floating-point input, the first cut stands for it; later ones that come from parameters alone are
    constants.
    """
    live: set[int] = {-1} if floats else {next((at for at, cut in enumerate(cuts) if not cut.sources), 0)}
    for at, cut in enumerate(cuts):
        if cut.sources & live:
            live.add(at)
    if len(cuts) - 1 not in live:
        return []
    relevant = {len(cuts) - 1}
    for at in reversed(range(len(cuts))):
        if at in relevant:
            relevant |= cuts[at].sources & live
    last: dict[int, int] = {}
    for at in sorted(relevant - {-1}):
        last.update(dict.fromkeys(cuts[at].sources, at))
    found, reached = [], last.get(-1, 0)
    for at in sorted(relevant - {-1}):
        if reached <= at:
            found.append(at)
        reached = max(reached, last.get(at, at))
    return found


def _named(candidates: Mapping[int, Sequence[str]], steps: Mapping[str, int]) -> dict[int, str]:
    """Return the names of the parts between the residual blocks: the outermost submodules that hold none.

    What is inside a residual block counts only behind its sum, as a norm there. A submodule of more than 8 such parts
    is taken apart.

    Args:
        candidates: the tags at each place, in order of computation.
        steps: the residual blocks and their places.
    """
    holders = {name[:end] for name in steps for end in range(len(name)) if name[end] == "."}
    while True:
        found: dict[int, str] = {}
        for at, paths in candidates.items():
            later = {name for name, place in steps.items() if place > at}
            taken = {*holders, *steps}
            free = [path for path in paths if path and path not in taken and not _within(path, later)]
            if free:
                found[at] = min(free, key=lambda path: path.count("."))
        inside = {at: [name for name in found.values() if _within(found[at], [name])] for at in found}
        large = {
            name
            for name in found.values()
            if sum(name in around and len(around) == 1 for around in inside.values()) > MAX_LINK_CHILDREN
        }
        if not large:
            return {at: name for at, name in found.items() if not inside[at]}
        holders |= large


def _within(path: str, names: Collection[str]) -> bool:
    return any(path.startswith(f"{name}.") for name in names)
