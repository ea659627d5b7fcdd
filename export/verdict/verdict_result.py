"""What a verdict says: rows, a table, a dictionary; without torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, Self

from export.errors import VerificationError
from export.footprint.byte_text import in_mib
from pure_export_shared import HtmlText, json_ready

__all__ = [
    "Divergence",
    "Judgement",
    "OpenDecision",
    "OutputSample",
    "Predicate",
    "Row",
    "Status",
    "Verdict",
    "columns",
    "unused_text",
]

SHOWN = 8
"""How many names a warning lists."""

Status = Literal["pass", "fail", "skipped", "ambiguous"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One output leaf in one case.

    Attributes:
        leaf: its dotted name.
        case: the sizes, the forced branches, or "against".
        dtype: its dtype.
        ratio: the largest distance of an element from its float64 reference, in units of that element's own rounding
            scale, or twice that from eager's value where it is smaller; None where values are compared exactly.
        error: that element's distance, in the leaf's own unit.
        rounding_scale: that element's rounding scale: the spread of its value under random roundings.
        eager: the largest ratio of eager itself; None where it was not compared.
        limit: the largest ratio that passes.
        status: "pass", "fail", "skipped" or "ambiguous".
        reason: why it did not pass.
        zero_signs: how many zeros have the other sign than eager's, which no ratio sees.
    """

    leaf: str
    case: str
    dtype: str
    ratio: float | None
    error: float | None
    rounding_scale: float | None
    eager: float | None
    limit: float
    status: Status
    reason: str = ""
    zero_signs: int = 0


@dataclasses.dataclass(frozen=True)
class Predicate:
    """An `If` on the example inputs.

    Attributes:
        taken: the branch that the reference takes.
        margin: the signed distance from the threshold, None if the predicate is no plain comparison.
        rounding: the rounding scale of that distance.
        source: the line of the function's source.
        status: "pass"; if the file takes the other branch, "ambiguous" within rounding and "fail" beyond.
    """

    taken: bool
    margin: float | None
    rounding: float | None
    source: str
    status: Status


@dataclasses.dataclass(frozen=True)
class OpenDecision:
    """An operation that decides by value (relu's derivative, max pooling), where rounding leaves either side right.

    Attributes:
        op: the recorded operator.
        path: the dotted path of the block it belongs to.
        source: the line of the function's source.
        compared: how many decisions it makes on the example.
        open: how many of them lie within rounding of the jump: either side is right there.
        margin: the smallest distance from the jump.
        rounding: the rounding scale of that distance.
    """

    op: str
    path: str
    source: str
    compared: int
    open: int
    margin: float
    rounding: float

    def __str__(self) -> str:
        return (
            f"{self.op} ({_where(self.path, self.source)}): rounding leaves {self.open} of {self.compared} decisions "
            f"open, the closest {abs(self.margin):.2g} from the jump with a rounding scale of {self.rounding:.2g}"
        )


@dataclasses.dataclass(frozen=True)
class OutputSample:
    """What the file gave for one output leaf on the example, at some of its elements, always the same ones.

    A later run compares with it what the same file gives under other versions.

    Attributes:
        leaf: its dotted name.
        largest: the largest absolute value in the whole leaf; NaN if there is none.
        values: the file's values at these elements.
        reference: the float64 reference there.
        scales: the rounding scales there.
    """

    leaf: str
    largest: float
    values: tuple[float, ...]
    reference: tuple[float, ...]
    scales: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Divergence:
    """The first node whose value differs from eager.

    Attributes:
        node: its name in the file.
        op: the ONNX operator.
        path: the dotted path of the block it belongs to.
        source: the line of the function's source.
        ratio: how far it is off, as in a row.
        reproduction: the folder that holds the model, the inputs and a script.
        within: the branch or the loop, with its step, that the node lies in; empty for the outermost graph.
        root: whether the node alone differs on the reference's inputs, rounded to its dtypes; None if it was not tried.
        cause: the same in words, or what the difference is carried on from.
        weights: stored tensors of the node that are not the given ones.
        opinion: who stands alone, where onnx's reference evaluator was asked too.
        problem: why no node could be looked for; empty if one was.
    """

    node: str
    op: str
    path: str
    source: str
    ratio: float
    reproduction: str
    within: str = ""
    root: bool | None = None
    cause: str = ""
    weights: str = ""
    opinion: str = ""
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            there = f"; reproduction: {self.reproduction}" if self.reproduction else ""
            return f"the first node that differs could not be looked for: {self.problem}{there}"
        place = "; ".join(text for text in (self.op, self.within, _where(self.path, self.source)) if text)
        more = [f"ratio {self.ratio:.3g}", *(text for text in (self.cause, self.weights, self.opinion) if text)]
        return f"first differs at node {self.node!r} ({place}), {'; '.join(more)}; reproduction: {self.reproduction}"


def columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of cells as indented text, each column as wide as its widest cell.

    >>> columns([("leaf", "ratio"), ("out", "1")])
    ['  leaf  ratio', '  out   1']
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]


class Judgement(HtmlText):
    """What every verdict offers, made from what it found.

    Subclasses are frozen dataclasses with `status` and `table()`.
    """

    @property
    def status(self) -> Status:
        """What the verdict comes to."""
        raise NotImplementedError

    @property
    def passed(self) -> bool:
        """Whether everything was compared and nothing failed or was ambiguous."""
        return self.status == "pass"

    def __bool__(self) -> bool:
        return self.passed

    def table(self) -> str:
        """Return the verdict as text."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.table().partition(chr(10))[0]}>"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON (numbers that are not finite become text)."""
        fields = dataclasses.asdict(self)  # type: ignore[call-overload]
        found: dict[str, Any] = json_ready({**fields, "status": self.status, "passed": self.passed})
        return found

    def raise_if_failed(self) -> Self:
        """Return the verdict itself if it passed.

        Raises:
            VerificationError: with the table, if it did not.
        """
        if not self.passed:
            raise VerificationError(self.table())
        return self


@dataclasses.dataclass(frozen=True, repr=False)
class Verdict(Judgement):
    """Whether a file computes what the eager function computes.

    Attributes:
        path: the file that was judged.
        rows: one row for each output leaf and case.
        predicates: one entry for each outermost `If`.
        device: where the file ran.
        lifted: source lines of casts that were lifted to float64 for the reference.
        runs: how many noisy runs each rounding scale is taken from.
        divergence: the first node that differs, if something failed.
        seconds: how long the verdict took.
        decisions: operations that decide by value and that rounding leaves open; see `OpenDecision`.
        outputs: some of the example's output elements, for comparison with other versions; not in `to_dict`.
        unused: inputs, weights and branches that no output depended on: the verdict says nothing about these.
        notes: how the file was matched with the function, where that is not plain.
        peak_bytes: bytes alive at once in a call on the example, see `export.memory`; None on a GPU or where unknown.
    """

    path: str
    rows: tuple[Row, ...]
    predicates: tuple[Predicate, ...]
    device: str
    lifted: tuple[str, ...]
    runs: int
    divergence: Divergence | None
    seconds: float
    decisions: tuple[OpenDecision, ...] = ()
    outputs: tuple[OutputSample, ...] = dataclasses.field(default=(), compare=False)
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    peak_bytes: int | None = None

    @property
    def status(self) -> Status:
        """What the verdict comes to: fail if anything failed, ambiguous if a predicate flips inside rounding."""
        found = {row.status for row in self.rows} | {predicate.status for predicate in self.predicates}
        if "fail" in found or not found & {"pass", "ambiguous"}:
            return "fail"
        return "ambiguous" if "ambiguous" in found else "pass"

    @property
    def worst(self) -> float:
        """The largest ratio; NaN if nothing was compared by ratio."""
        ratios = [row.ratio for row in self.rows if row.ratio is not None]
        return max(ratios) if ratios else math.nan

    def table(self, *, full: bool = False) -> str:
        """Return the verdict as text: a line for each leaf with its worst case; every row with `full`.

        What did not pass stands first.
        """
        rows = sorted(self.rows if full else _worst_rows(self.rows), key=lambda row: _ORDER[row.status])
        cells = [("leaf", "case", "dtype", "error", "rounding scale", "ratio", "eager", "limit", "status")]
        for row in rows:
            error, scale, ratio, eager = map(_short, (row.error, row.rounding_scale, row.ratio, row.eager))
            status = row.status + (f": {row.reason}" if row.reason else "")
            status += f" ({row.zero_signs} zeros of the other sign)" if row.zero_signs else ""
            cells.append((row.leaf, row.case, row.dtype, error, scale, ratio, eager, f"{row.limit:g}", status))
        lines = [
            f"{self.status.upper()}  {self.path} on {self.device}: {len(self.rows)} comparisons, "
            f"worst ratio {_short(self.worst)}",
            *columns(cells),
        ]
        for predicate in self.predicates:
            lines.append(
                f"  If at {predicate.source or '?'}: takes {predicate.taken}, margin {_short(predicate.margin)}, "
                f"rounding {_short(predicate.rounding)}: {predicate.status}"
            )
        if self.unused:
            lines.append(f"  warning: {unused_text(self.unused)}")
        if self.peak_bytes is not None:
            lines.append(f"  memory: {in_mib(self.peak_bytes)} at once in a call on the example")
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  open: {decision}" for decision in self.decisions]
        lines += [f"  lifted to float64 for the reference: {line}" for line in self.lifted]
        if self.divergence is not None:
            lines.append(f"  {self.divergence}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON (numbers that are not finite become text)."""
        found = {**super().to_dict(), "worst": json_ready(self.worst)}
        del found["outputs"]
        return found


def unused_text(names: Sequence[str]) -> str:
    """Say that no output depended on these, a few by name.

    >>> unused_text(["gain", "bias"])
    'no output depended on gain, bias: the verdict says nothing about them'
    """
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return f"no output depended on {shown}: the verdict says nothing about them"


def _where(path: str, source: str) -> str:
    """Say which block and line an operation belongs to."""
    return ", ".join(text for text in (path and f"block {path}", source) if text) or "no source line"


_ORDER = {"fail": 0, "ambiguous": 1, "pass": 2, "skipped": 3}


def _worst_rows(rows: tuple[Row, ...]) -> list[Row]:
    worst: dict[str, Row] = {}
    for row in rows:
        known = worst.get(row.leaf)
        key = (_ORDER[row.status], -(row.ratio or 0.0))
        if known is None or key < (_ORDER[known.status], -(known.ratio or 0.0)):
            worst[row.leaf] = row
    return list(worst.values())


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
