"""Which tagged branches count as passed, and the number of paths through k of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, get_args

from torch import Tensor

from pure.errors import ArgumentError, UnsupportedError
from pure.flow.paths.graded_tangents import GradedTangents
from pure.flow.paths.segments import Segments

__all__ = ["Count", "Counting", "Routes", "routes"]

Count = Literal["outermost", "innermost", "all"]
INPUT_ONLY = 1
"""The set of branches last passed that holds the start alone; bit i + 1 is branch i."""


@dataclass(frozen=True, eq=False)
class Routes:
    """What counts as a pass through a branch, and how many routes there are.

    A gate that a branch's own block tags counts with that branch: a route through the gate's derivative and on to the
    stream, beside the branch, passes the branch once too.

    Attributes:
        labels: paths of the branches that count, in the order of computation.
        branch_at: cut → which branch it is.
        gate_edges: (gate, cut behind it) → the branch that this way counts for.
        gates: the cuts that are gates of a branch that counts.
        paths: how many sets of branches some route passes, by their number: C(L, k) for L residual blocks in a row.
    """

    labels: tuple[str, ...]
    branch_at: dict[int, int]
    gate_edges: dict[tuple[int, int], int]
    gates: frozenset[int]
    paths: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Counting:
    """Moves a stack one order further where a branch is passed.

    Attributes:
        routes: what counts as a pass.
        signs: (groups, branches), factors of each branch in each group of rows; None is 1.
        shut: the group of rows that no gate's derivative reaches, if there is one.
    """

    routes: Routes
    signs: Tensor | None = None
    shut: int | None = None

    def edge(self, stack: GradedTangents, source: int, target: int) -> GradedTangents:
        """Return the stack behind the way from one cut to another, which counts if it is a gate's beside its branch."""
        branch = self.routes.gate_edges.get((source, target))
        return stack if branch is None else self._passed(stack, branch)

    def node(self, stack: GradedTangents, cut: int) -> GradedTangents:
        """Return the stack behind a cut, which counts if it is a branch."""
        if self.shut is not None and cut in self.routes.gates:
            return stack.without(self.shut)
        branch = self.routes.branch_at.get(cut)
        return stack if branch is None else self._passed(stack, branch)

    def _passed(self, stack: GradedTangents, branch: int) -> GradedTangents:
        return stack.passed(None if self.signs is None else self.signs[:, branch])


def routes(parts: Segments, what: str, count: Count, orders: int | None = None) -> Routes:
    """Return the routes through a function.

    Args:
        parts: the function, cut.
        what: the measurement, for messages.
        count: see `path_spectrum`.
        orders: routes of more branches than this are not counted.

    Raises:
        ArgumentError: an unknown `count`.
        UnsupportedError: the function tags no branch, or none that its output depends on.
    """
    if count not in get_args(Count):
        raise ArgumentError(f"{what} count={count!r}: expected one of {', '.join(get_args(Count))}")
    chosen = _chosen(parts, count)
    if not chosen:
        if "branch" not in parts.seen:
            found = ", ".join(sorted(parts.seen)) or "no tags at all"
            raise UnsupportedError(
                f"{what} of a function that tags no branch, so that no path is known to skip one (found: {found}): tag "
                'what is added to the skip, as in `x + pure.tag(f, "branch", kind="branch")`'
            )
        raise UnsupportedError(
            f"{what} of a function whose output depends on none of its branches: use what tag returns, as in "
            '`x + pure.tag(f, "branch", kind="branch")`'
        )
    branch_at = {cut: index for index, cut in enumerate(chosen)}
    gates = _gates(parts, branch_at)
    edges = {}
    for gate, branch in gates.items():
        own = {cut for cut in chosen if parts.cuts[cut].scope == parts.cuts[gate].scope}
        counted = own.union(gates, *(_inside(parts, cut) for cut in own))
        edges.update({(gate, user): branch for user in parts.users[gate] if user not in counted})
    labels = tuple(parts.cuts[cut].path for cut in chosen)
    return Routes(labels, branch_at, edges, frozenset(gates), _paths(parts, branch_at, edges, orders))


def _chosen(parts: Segments, count: Count) -> list[int]:
    branches = [index for index, cut in enumerate(parts.cuts) if cut.kind == "branch"]
    if count == "all":
        return branches
    inside = {branch: _inside(parts, branch) for branch in branches}
    if count == "outermost":
        covered = set().union(*inside.values())
        return [branch for branch in branches if branch not in covered]
    return [branch for branch in branches if not any(parts.cuts[cut].kind == "branch" for cut in inside[branch])]


def _inside(parts: Segments, branch: int) -> set[int]:
    """Return the cuts inside a branch: tagged by blocks inside its own, and used for nothing but the branch."""
    scope = parts.cuts[branch].scope
    found, waiting = set(), [branch]
    while waiting:
        for source in parts.cuts[waiting.pop()].sources:
            path = parts.cuts[source].scope
            deeper = path != scope and (not scope or path.startswith(scope + "."))
            if deeper and parts.cuts[source].path and source not in found:
                found.add(source)
                waiting.append(source)
    for cut in sorted(found, reverse=True):
        if not all(user in found or user == branch for user in parts.users[cut]):
            found.discard(cut)
    return found


def _gates(parts: Segments, branch_at: dict[int, int]) -> dict[int, int]:
    """Return the gates that the blocks of counted branches tag: gate → branch, the first behind it, else the last."""
    by_scope: dict[str, list[int]] = {}
    for branch in branch_at:
        by_scope.setdefault(parts.cuts[branch].scope, []).append(branch)
    gates = {}
    for index, cut in enumerate(parts.cuts):
        if cut.kind == "gate" and cut.scope in by_scope:
            own = by_scope[cut.scope]
            gates[index] = branch_at[next((branch for branch in own if branch > index), own[-1])]
    return gates


def _paths(
    parts: Segments, branch_at: dict[int, int], edges: dict[tuple[int, int], int], orders: int | None
) -> tuple[int, ...]:
    """Count the sets of branches that lie on one route, by their number.

    Each cut gets the set of branches that were the last ones passed on some route to it. A branch follows those; so the
    sets of branches are the paths of a graph over the branches, which are added up in order.
    """
    before = [0] * len(branch_at)
    last = [INPUT_ONLY] * len(parts.cuts)
    for index, cut in enumerate(parts.cuts[1:], start=1):
        reached = 0
        for source in cut.sources:
            branch = edges.get((source, index))
            if branch is None:
                reached |= last[source]
            else:
                before[branch] |= last[source] & (1 << branch + 1) - 1
                reached |= 1 << branch + 1
        if index in branch_at:
            branch = branch_at[index]
            before[branch] |= reached & (1 << branch + 1) - 1
            reached = 1 << branch + 1
        last[index] = reached
    counts: list[list[int]] = [[1]]
    known, total = 0, [0]
    for follows in (*before, last[-1]):
        if known & ~follows:
            known, total = 0, [0]
        for branch in _bits(follows & ~known):
            total = [a + b for a, b in zip_longest(total, counts[branch], fillvalue=0)]
        known = follows
        counts.append([0, *total][: None if orders is None else orders + 1])
    return tuple(total[: None if orders is None else orders + 1])


def _bits(number: int) -> Sequence[int]:
    return [bit for bit in range(number.bit_length()) if number >> bit & 1]
