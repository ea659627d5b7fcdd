"""Residual sums in the record of a call: s + f, where f was computed from what s is or was a shortcut of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pure.interop.tagging.call_graph import UNSEEN, Call, CallGraph, Part
from pure.interop.tagging.function_names import ACTIVATIONS, CATS, CONTRACTIONS, SUMS

__all__ = ["ResidualSum", "SumFinder", "bits"]

MAX_SHORTCUT_CONTRACTIONS = 1
"""A shortcut holds at most one linear map or convolution, and no activation."""


@dataclass(eq=False)
class ResidualSum:
    """One residual sum: its call, the skip's and the branches' calls, and the common source."""

    at: int
    skip: int
    branches: tuple[int, ...]
    root: int
    between: int
    part: Part
    end: int
    whole: bool = False
    row: str = ""


def bits(number: int) -> Iterator[int]:
    """Yield the positions of the ones in a number's binary form, ascending."""
    while number:
        low = number & -number
        yield low.bit_length() - 1
        number ^= low


class SumFinder:
    """The residual sums of one record."""

    def __init__(self, graph: CallGraph) -> None:
        self.calls, self.above, sink = graph.calls, graph.above, graph.sink
        assert sink is not None
        self.sink, self.sizes = sink, graph.sizes
        self.relevant = self.above[sink] | 1 << sink
        self.users: dict[int, list[int]] = {}
        for index in bits(self.relevant):
            for source in self.calls[index].sources:
                self.users.setdefault(source, []).append(index)
        self.passages = self._passages()
        self.sums: dict[int, ResidualSum] = {}

    def _passages(self) -> frozenset[int]:
        """Return the calls that every way from the input to the output passes."""
        found, reached = [], -1
        for index in bits(self.relevant):
            if reached <= index:
                found.append(index)
            reached = max(reached, *self.users.get(index, [index]))
        several = sum(not self.calls[index].sources for index in bits(self.relevant)) > 1
        if several:  # several inputs: none before all of them have met
            last = max(index for index in bits(self.relevant) if not self.calls[index].sources)
            found = [index for index in found if index > last]
        return frozenset(found)

    def _walk(self, skip: int, branch: int) -> tuple[int, int, int] | None:
        """Return what a skip and a branch both come from, and how many calls and contractions the skip takes from it.

        None where the skip is no shortcut from anything that the branch was computed from.
        """
        at, steps, contractions = skip, 0, 0
        while at != branch:
            if self.above[branch] >> at & 1:
                return at, steps, contractions
            if (earlier := self.sums.get(at)) is not None and self.calls[at].name in SUMS:
                at = earlier.skip
                continue
            call = self.calls[at]
            contractions += call.name in CONTRACTIONS or (call.name == UNSEEN and bool(call.params))
            if len(call.sources) != 1 or call.name in ACTIVATIONS or contractions > MAX_SHORTCUT_CONTRACTIONS:
                return None
            at, steps = call.sources[0], steps + 1
        return None

    def _between(self, root: int, ends: Iterable[int]) -> int:
        """Return the calls on the ways from a source to some ends, the source left out."""
        found = 0
        for end in ends:
            found |= self.above[end] | 1 << end
        return sum(1 << index for index in bits(found & self.relevant) if self.above[index] >> root & 1)

    def _substantial(self, between: int, part: Part) -> bool:
        """Return whether parameters were used on the way, or a part that returned."""
        return any(self.calls[index].params or self.calls[index].part is not part for index in bits(between))

    def find(self) -> list[ResidualSum]:
        """Return the residual sums, in order."""
        for index in bits(self.relevant):
            call = self.calls[index]
            if not call.plain:
                continue
            found = None
            if call.name in SUMS and len(call.operands) == 2:
                found = self._sum(index, call)
            elif call.name in CATS and index in self.passages:
                found = self._cat(index, call)
            if found is not None:
                self.sums[index] = found
        return list(self.sums.values())

    def _made(self, index: int, skip: int, branches: tuple[int, ...], root: int) -> ResidualSum | None:
        call = self.calls[index]
        between = self._between(root, branches)
        if not self._substantial(between, call.part):
            return None
        inside = [self.calls[at].part for at in bits(between | self._between(root, [skip]))]
        part = _innermost([*inside, call.part])
        return ResidualSum(index, skip, branches, root, between, part, self._end(index), index in self.passages)

    def _sum(self, index: int, call: Call) -> ResidualSum | None:
        (first, a), (second, b) = call.operands
        if first is None or second is None or first == second or not a == b == call.shape:
            return None
        ways = [(skip, branch, self._walk(skip, branch)) for skip, branch in ((first, second), (second, first))]
        found = sorted((way[2] > 0, way[1] > 0, skip, branch, way[0]) for skip, branch, way in ways if way is not None)
        if not found or (len(found) == 2 and found[0][:2] == found[1][:2]):
            return None
        _, _, skip, branch, root = found[0]
        return self._made(index, skip, (branch,), root)

    def _cat(self, index: int, call: Call) -> ResidualSum | None:
        live = [operand.call for operand in call.operands if operand.call is not None]
        if call.prefix is not None:
            skip = call.prefix[0]
            roots = [self._walk(skip, branch) for branch in live]
            way = next((way for way in roots if way is not None), None)
            return None if way is None or not live else self._made(index, skip, tuple(live), way[0])
        for skip in live:
            others = tuple(other for other in live if other != skip)
            ways = [self._walk(skip, other) for other in others]
            way = next((way for way in ways if way is not None and way[2] == 0), None)
            if way is not None and all(self.above[other] >> way[0] & 1 for other in others):
                return self._made(index, skip, others, way[0])
        return None

    def _end(self, index: int) -> int:
        """Return the call whose result is the stream: the sum's, or that of activations right behind it."""
        part = self.calls[index].part
        while len(self.users.get(index, ())) == 1:
            (user,) = self.users[index]
            call = self.calls[user]
            if call.name not in ACTIVATIONS or call.params or call.sources != (index,) or call.number < 0:
                break
            if not any(outer is part for outer in call.part.upwards()):
                break
            index = user
        return index


def _innermost(parts: Iterable[Part]) -> Part:
    """Return the innermost call of a part in which all of these ran."""
    common: Part | None = None
    for part in parts:
        if common is None:
            common = part
        while not any(outer is common for outer in part.upwards()):
            assert common is not None
            assert common.parent is not None
            common = common.parent
    assert common is not None
    return common
