"""What is tagged in a call of a module, by the record of a first run."""

from __future__ import annotations

from typing import NamedTuple

from pure.interop.tagging.call_graph import CallGraph
from pure.interop.tagging.residual_sums import ResidualSum, SumFinder
from pure.interop.tagging.row_names import name_rows

__all__ = ["Mark", "Plan", "plan"]


class Mark(NamedTuple):
    """What to tag at one call of a function.

    Attributes:
        name: of the function, to be sure that a second run takes the same way.
        row: the name of the block that the sum ends.
        branches: positions among the call's tensor arguments that are branches.
        skip: position of the skip's argument; −1 where that is the prefix.
        prefix: the number of the earlier concatenation that stands for the first tensors, and how many those are.
    """

    name: str
    row: str
    branches: tuple[int, ...]
    skip: int
    prefix: tuple[int, int] | None = None


class Plan(NamedTuple):
    """What to tag in a call of a module, by the number of the function's call.

    Attributes:
        sums: the sums and concatenations, whose branches are tagged.
        streams: the calls whose results are streams: {number: row}.
        outputs: other calls that use a parameter where no submodule does: {number: the parameter's name}.
        names: {number: name of the function}, of all calls named here.
    """

    sums: dict[int, Mark]
    streams: dict[int, str]
    outputs: dict[int, str]
    names: dict[int, str]


def plan(graph: CallGraph) -> Plan:
    """Return what to tag, by the record of a first run."""
    if graph.sink is None:
        return Plan({}, {}, {}, {})
    finder = SumFinder(graph)
    sums = [found for found in finder.find() if finder.calls[found.at].number >= 0]
    name_rows(finder, sums)
    marks: dict[int, Mark] = {}
    streams: dict[int, str] = {}
    for found in sums:
        call = finder.calls[found.at]
        offset = 0 if call.prefix is None else call.prefix[1]
        places = [operand.call for operand in call.operands]
        branches = tuple(offset + at for at, place in enumerate(places) if place in found.branches)
        skip = -1 if call.prefix is not None else places.index(found.skip)
        prefix = None if call.prefix is None else (finder.calls[call.prefix[0]].number, call.prefix[1])
        marks[call.number] = Mark(call.name, found.row, branches, skip, prefix)
        inside = any(outer.between >> found.at & 1 for outer in sums)
        if found.whole or inside:
            streams[finder.calls[found.end].number] = found.row
    outputs = _outputs(finder, sums)
    numbers = {call.number: call.name for call in graph.calls}
    return Plan(marks, streams, outputs, {number: numbers[number] for number in {*marks, *streams, *outputs}})


def _outputs(finder: SumFinder, sums: list[ResidualSum]) -> dict[int, str]:
    """Return the passages that use a parameter directly in a part that holds residual sums, as a class token does."""
    holders = {id(part) for found in sums for part in found.part.upwards()}
    ends = {found.at for found in sums}
    found: dict[int, str] = {}
    for index in sorted(finder.passages):
        call = finder.calls[index]
        if call.params and call.number >= 0 and id(call.part) in holders and index not in ends:
            name = max(sorted(call.params), key=lambda name: finder.sizes.get(name, 0))
            found[call.number] = name
    return found
