"""ONNX Runtime's arena: which addresses a sequence of allocations touches, and so what a process comes to hold.

Best fit with coalescing, as in TensorFlow: regions double in size; a chunk that is more than twice what is asked for is
split, a smaller one is taken whole; freed neighbours become one chunk.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from export.footprint.kernel_memory import OUTSIDE, SELECTS
from export.footprint.lifetimes import Step

__all__ = ["Arena", "held_bytes"]

_ROUNDING = 256
_FIRST_REGION = 2**20
_LARGEST_REGION = 2**30
_MAX_UNUSED = 128 * 2**20
"""Bytes of a chunk that may go unused, whatever its size."""


class Arena:
    """Addresses of one arena.

    Attributes:
        held: bytes of all addresses that were ever given out.
    """

    def __init__(self) -> None:
        self.held = 0
        self._free: list[tuple[int, int, int]] = []  # (size, region, address)
        self._by_start: dict[tuple[int, int], int] = {}
        self._by_end: dict[tuple[int, int], int] = {}
        self._touched: list[int] = []
        self._next_region = _FIRST_REGION

    def take(self, count: int) -> tuple[int, int, int]:
        """Allocate; return what `give_back` takes."""
        size = -(-max(count, 1) // _ROUNDING) * _ROUNDING
        i = self._fit(size)
        if i is None:
            self._extend(size)
            i = self._fit(size)
        if i is None:
            raise AssertionError("a new region holds what it was made for")
        found, region, start = self._free[i]
        self._remove(found, region, start)
        if found >= 2 * size or found - size >= _MAX_UNUSED:
            self._add(found - size, region, start + size)
            found = size
        reached = start + count
        self.held += max(0, reached - self._touched[region])
        self._touched[region] = max(self._touched[region], reached)
        return found, region, start

    def give_back(self, chunk: tuple[int, int, int]) -> None:
        """Free what `take` gave."""
        size, region, start = chunk
        behind = self._by_start.get((region, start + size))
        if behind is not None:
            self._remove(behind, region, start + size)
            size += behind
        before = self._by_end.get((region, start))
        if before is not None:
            self._remove(before, region, start - before)
            start, size = start - before, size + before
        self._add(size, region, start)

    def _fit(self, size: int) -> int | None:
        i = bisect.bisect_left(self._free, (size, -1, -1))
        return i if i < len(self._free) else None

    def _extend(self, size: int) -> None:
        doubled = self._next_region
        while doubled < size:
            doubled *= 2
        self._next_region = doubled * 2 if doubled == self._next_region else doubled
        self._touched.append(0)
        self._add(max(size, min(doubled, _LARGEST_REGION)), len(self._touched) - 1, 0)

    def _add(self, size: int, region: int, start: int) -> None:
        bisect.insort(self._free, (size, region, start))
        self._by_start[region, start] = self._by_end[region, start + size] = size

    def _remove(self, size: int, region: int, start: int) -> None:
        del self._free[bisect.bisect_left(self._free, (size, region, start))]
        del self._by_start[region, start], self._by_end[region, start + size]


def held_bytes(steps: Sequence[Step]) -> int:
    """Return the most that a process comes to hold in one call; what lies in the arena it keeps."""
    arena, most = Arena(), 0
    chunks: dict[str, tuple[int, int, int]] = {}
    for step in steps:
        selects = step.node.op_type in SELECTS
        taken = [arena.take(step.workspace // 2), arena.take(step.workspace // 2)] if selects else []
        chunks.update((name, arena.take(count)) for name, count in step.made.items())
        if step.node.op_type in OUTSIDE:
            most = max(most, arena.held + step.workspace)
        elif step.workspace and not selects:
            taken.append(arena.take(step.workspace))
        for chunk in taken:
            arena.give_back(chunk)
        for name in step.freed:
            arena.give_back(chunks.pop(name))
    return max(most, arena.held)
