"""The errors of one case's float leaves, pooled over as many varied inputs as it takes to tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from export.runtime.loaded_file import Loaded
from export.verdict.error_ratio import Errors, Measured, measure, numeric_row
from export.verdict.paired_runs import PairedRuns
from export.verdict.reference_runs import Results
from export.verdict.verdict_result import Row

__all__ = ["Pool", "fails", "fails_narrowly"]

NARROW_FAILURE_FACTOR = 2.0
"""A failure by less than this multiple of the limit may be what chance makes of few inputs."""


class Pool:
    """Runs on the inputs themselves and on varied ones, whose errors are judged together.

    Runs in which eager flipped, and those that fail, are judged on the sides that were taken (`verdict.kinks`). What
    fails still is measured by ONNX Runtime's own elementary functions (`verdict.elementary_errors`).

    Args:
        runs: the file and the function.
        limit: the largest ratio that passes, None for the usual.
        label: the case's name.
        numeric: positions of the float leaves.
        leaves: the inputs.
        loaded: the file.
        forced: the branches forced.
        base: the results on the inputs themselves.

    Attributes:
        measured: the errors of each run.
    """

    def __init__(
        self,
        runs: PairedRuns,
        limit: float | None,
        label: str,
        numeric: Sequence[int],
        leaves: list[torch.Tensor],
        loaded: Loaded,
        forced: Sequence[bool],
        base: Results,
    ) -> None:
        self.runs, self.limit, self.label, self.numeric = runs, limit, label, numeric
        self.leaves, self.loaded, self.forced, self.base = leaves, loaded, forced, base
        self.dtypes = {i: base.eager.leaves[i].dtype for i in numeric}
        self.fine = torch.float64 in self.dtypes.values()
        self.states: list[torch.Tensor] = []
        self.measured: list[Measured] = []
        self.sided: set[int] = set()

    def judged(self, count: int) -> dict[int, Row]:
        """Judge by so many runs: {position of a leaf: its row}."""
        for number in range(len(self.measured), count):
            self.states.append(self.runs.generator.get_state())
            given, results = self._sample(number)
            coarse = self.runs.in_float32(given, self.forced) if self.fine and results is not None else None
            self.measured.append(measure(self.numeric, results, coarse) if results is not None else Measured({}, False))
        later = self.runs.generator.get_state()
        rows = self._rows(self.measured)
        doubtful = fails(rows) or any(part.flipped for part in self.measured)
        if doubtful and self.runs.jumps and not (self.forced or self.fine):
            self._take_sides()
            rows = self._rows(self.measured)
        if self.runs.coarser and not self.fine and fails(rows):
            rows = self._by_own_functions(rows)
        self.runs.generator.set_state(later)
        return rows

    def _rows(self, measured: Sequence[Measured]) -> dict[int, Row]:
        pooled = {i: Errors() for i in self.numeric}
        for part in measured:
            part.merge_into(pooled)
        names = self.base.eager.names
        return {i: numeric_row(names[i], self.label, self.dtypes[i], pooled[i], self.limit) for i in self.numeric}

    def _sample(self, number: int) -> tuple[list[torch.Tensor], Results | None]:
        if number == 0:
            return self.leaves, self.base
        given = self.runs.varied(self.leaves)
        return given, self.runs.again(given, self.loaded, self.forced)

    def _again(self, number: int) -> tuple[list[torch.Tensor], Results | None]:
        self.runs.generator.set_state(self.states[number])
        return self._sample(number)

    def _take_sides(self) -> None:
        """Judge runs that flipped, or fail by themselves, on the sides that were taken."""
        for number, part in enumerate(self.measured):
            if number in self.sided or not (part.flipped or part.exceeds(self.dtypes, self.limit)):
                continue
            self.sided.add(number)
            given, results = self._again(number)
            settled = self.runs.settled(given, results.reference, results.file) if results is not None else None
            if results is not None and settled is not None:
                self.measured[number] = measure(self.numeric, results, None, settled)

    def _by_own_functions(self, before: Mapping[int, Row]) -> dict[int, Row]:
        """Judge by eager with ONNX Runtime's own elementary functions, and say so where that makes a leaf pass."""
        rounded = []
        for number, part in enumerate(self.measured):
            given, results = self._again(number)
            if results is not None:
                part = part.with_rounding(self.runs.kernel_rounding(given, self.forced, results.reference))
            rounded.append(part)
        rows = self._rows(rounded)
        for i, row in rows.items():
            if before[i].status == "fail" and row.status == "pass":
                rows[i] = dataclasses.replace(row, reason=f"by ONNX Runtime's own {', '.join(self.runs.coarser)}")
        return rows


def fails(rows: Mapping[int, Row]) -> bool:
    """Tell whether something fails."""
    return any(row.status == "fail" for row in rows.values())


def fails_narrowly(rows: Mapping[int, Row]) -> bool:
    """Tell whether something fails, and nothing by more than chance makes of few inputs."""
    failed = [row for row in rows.values() if row.status == "fail"]
    return bool(failed) and all(
        row.ratio is not None and row.ratio < NARROW_FAILURE_FACTOR * row.limit for row in failed
    )
