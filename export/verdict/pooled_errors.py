"""The errors of one case's float leaves, pooled over as many varied inputs as it takes to tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from export.verdict.error_ratio import Errors, Measured, measure, numeric_row
from export.verdict.reference_runs import Outcome
from export.verdict.verdict_result import Row

if TYPE_CHECKING:
    from export import runtime
    from export.verdict.judge import Judge

NARROWLY = 2.0
"""A failure by less than this multiple of the limit may be what chance makes of few inputs."""


Runs = tuple[Outcome, Outcome, list[torch.Tensor]]
"""What eager, the truth and the file give."""


class Pool:
    """Runs on the inputs themselves and on varied ones, whose errors are judged together.

    Runs in which eager flipped, and those that fail, are judged on the sides that were taken (``judging.kinks``). What
    fails still is measured by ONNX Runtime's own elementary functions (``judging.elementary``).

    Args:
        judge: The verdict that it belongs to.
        label: The case's name.
        numeric: Positions of the float leaves.
        leaves: The inputs.
        loaded: The file.
        forced: The branches forced.
        base: The results of eager, of the truth and of the file on the inputs themselves.

    Attributes:
        measured: The errors of each run.
    """

    def __init__(
        self,
        judge: Judge,
        label: str,
        numeric: Sequence[int],
        leaves: list[torch.Tensor],
        loaded: runtime.Loaded,
        forced: Sequence[bool],
        base: Runs,
    ) -> None:
        self.judge, self.label, self.numeric, self.leaves = judge, label, numeric, leaves
        self.loaded, self.forced, self.base = loaded, forced, base
        self.dtypes = {i: base[0].leaves[i].dtype for i in numeric}
        self.fine = torch.float64 in self.dtypes.values()
        self.states: list[torch.Tensor] = []
        self.measured: list[Measured] = []
        self.sided: set[int] = set()

    def judged(self, count: int) -> dict[int, Row]:
        """Judge by so many runs: {position of a leaf: its row}."""
        for number in range(len(self.measured), count):
            self.states.append(self.judge.generator.get_state())
            given, outcome = self._sample(number)
            coarse = self.judge.coarse(given, self.forced) if self.fine and outcome is not None else None
            self.measured.append(measure(self.numeric, outcome, coarse) if outcome is not None else Measured({}, False))
        later = self.judge.generator.get_state()
        rows = self._rows(self.measured)
        doubtful = fails(rows) or any(part.flipped for part in self.measured)
        if doubtful and self.judge.jumps and not (self.forced or self.fine):
            self._take_sides()
            rows = self._rows(self.measured)
        if self.judge.coarser and not self.fine and fails(rows):
            rows = self._by_own_functions(rows)
        self.judge.generator.set_state(later)
        return rows

    def _rows(self, measured: Sequence[Measured]) -> dict[int, Row]:
        pooled = {i: Errors() for i in self.numeric}
        for part in measured:
            part.merge_into(pooled)
        names, limit = self.base[0].names, self.judge.limit
        return {i: numeric_row(names[i], self.label, self.dtypes[i], pooled[i], limit) for i in self.numeric}

    def _sample(self, number: int) -> tuple[list[torch.Tensor], Runs | None]:
        if number == 0:
            return self.leaves, self.base
        given = self.judge.varied(self.leaves)
        return given, self.judge.again(given, self.loaded, self.forced)

    def _again(self, number: int) -> tuple[list[torch.Tensor], Runs | None]:
        self.judge.generator.set_state(self.states[number])
        return self._sample(number)

    def _take_sides(self) -> None:
        """Judge runs that flipped, or fail by themselves, on the sides that were taken."""
        for number, part in enumerate(self.measured):
            if number in self.sided or not (part.flipped or part.exceeds(self.dtypes, self.judge.limit)):
                continue
            self.sided.add(number)
            given, outcome = self._again(number)
            settled = self.judge.settled(given, outcome[1], outcome[2]) if outcome is not None else None
            if outcome is not None and settled is not None:
                self.measured[number] = measure(self.numeric, outcome, None, settled)

    def _by_own_functions(self, before: Mapping[int, Row]) -> dict[int, Row]:
        """Judge by eager with ONNX Runtime's own elementary functions, and say so where that makes a leaf pass."""
        rounded = []
        for number, part in enumerate(self.measured):
            given, outcome = self._again(number)
            if outcome is not None:
                part = part.with_rounding(self.judge.kernel_rounding(given, self.forced, outcome[1]))
            rounded.append(part)
        rows = self._rows(rounded)
        for i, row in rows.items():
            if before[i].status == "fail" and row.status == "pass":
                rows[i] = dataclasses.replace(row, reason=f"by ONNX Runtime's own {', '.join(self.judge.coarser)}")
        return rows


def fails(rows: Mapping[int, Row]) -> bool:
    """Whether something fails."""
    return any(row.status == "fail" for row in rows.values())


def fails_narrowly(rows: Mapping[int, Row]) -> bool:
    """Whether something fails, and nothing by more than chance makes of few inputs."""
    failed = [row for row in rows.values() if row.status == "fail"]
    return bool(failed) and all(row.ratio is not None and row.ratio < NARROWLY * row.limit for row in failed)
