"""What a verdict says: rows, a table, a dictionary; no torch here."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from export.errors import VerificationError

Status = Literal["pass", "fail", "skipped", "ambiguous"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One output leaf in one case.

    Attributes:
        leaf: Its dotted name.
        case: The sizes, the forced branches, or "against".
        dtype: Its dtype.
        ratio: RMSE to the float64 truth divided by the yardstick; None where numbers are compared exactly.
        rmse: Root mean square of the file's difference from the truth, in the leaf's own unit.
        yardstick: The same of eager, never below the floor.
        limit: The largest ratio that passes.
        status: "pass", "fail", "skipped" or "ambiguous".
        reason: Why it did not pass; or that it did by a yardstick with ONNX Runtime's own elementary functions.
    """

    leaf: str
    case: str
    dtype: str
    ratio: float | None
    rmse: float | None
    yardstick: float | None
    limit: float
    status: Status
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Predicate:
    """An ``If`` on the example inputs.

    Attributes:
        taken: The branch that eager takes.
        margin: The distance from the threshold, None if the predicate is no plain comparison.
        rounding: How far the margin moves between float64 and the function's own precision.
        source: The line of the function's source.
        status: "pass", or "ambiguous" or "fail" if the file, eager and the truth do not take the same branch.
    """

    taken: bool
    margin: float | None
    rounding: float | None
    source: str
    status: Status


@dataclasses.dataclass(frozen=True)
class Kink:
    """An operation that decides by value (relu's derivative, max pooling), where file and float64 took other sides.

    It is looked at only on inputs where a leaf would fail otherwise, or where eager itself left the float64 side.

    Attributes:
        op: The recorded operator.
        path: The dotted path of the block it belongs to.
        source: The line of the function's source.
        compared: How many decisions were looked at.
        followed: How many of them lie within rounding of the jump; the truth was computed on the file's side of these.
        clear: How many lie clear of it; there the truth kept its side.
        margin: The largest distance from the jump that was followed, in units of the operand's rounding.
        status: "fail" if the file decides otherwise at a clear margin, else "ambiguous".
    """

    op: str
    path: str
    source: str
    compared: int
    followed: int
    clear: int
    margin: float
    status: Status

    def __str__(self) -> str:
        return (
            f"{self.op} ({_where(self.path, self.source)}): of {self.compared} decisions {self.followed} differ within "
            f"rounding and were followed (margin at most {self.margin:.2g} roundings), {self.clear} differ at a clear "
            f"margin: {self.status}"
        )


@dataclasses.dataclass(frozen=True)
class Divergence:
    """The first node whose value differs from eager.

    Attributes:
        node: Its name in the file.
        op: The ONNX operator.
        path: The dotted path of the block it belongs to.
        source: The line of the function's source.
        ratio: How far it is off, as in a row.
        reproduction: The folder that holds the model, the inputs and a script.
    """

    node: str
    op: str
    path: str
    source: str
    ratio: float
    reproduction: str

    def __str__(self) -> str:
        return (
            f"first differs at node {self.node!r} ({self.op}; {_where(self.path, self.source)}), "
            f"ratio {self.ratio:.3g}; reproduction: {self.reproduction}"
        )


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a file computes what the eager function computes.

    Attributes:
        path: The file that was judged.
        rows: One row for each output leaf and case.
        predicates: One entry for each outermost ``If``.
        device: Where the file ran.
        lifted: Source lines of casts that were lifted to float64 for the truth.
        samples: How many slightly varied inputs each case was run on.
        floor_ulp: The floor of the yardstick, in ULP of the leaf's root mean square.
        divergence: The first node that differs, if something failed.
        seconds: How long the verdict took.
        kinks: Operations whose derivative jumps, where the file was judged on the side that it took; see ``Kink``.
    """

    path: str
    rows: tuple[Row, ...]
    predicates: tuple[Predicate, ...]
    device: str
    lifted: tuple[str, ...]
    samples: int
    floor_ulp: float
    divergence: Divergence | None
    seconds: float
    kinks: tuple[Kink, ...] = ()

    @property
    def status(self) -> Status:
        """Return what the verdict comes to: fail if anything failed, ambiguous if a predicate flips inside rounding."""
        found = {row.status for row in self.rows} | {predicate.status for predicate in self.predicates}
        return (
            "fail"
            if "fail" in found or not found & {"pass", "ambiguous"}
            else "ambiguous"
            if "ambiguous" in found
            else "pass"
        )

    @property
    def passed(self) -> bool:
        """Whether everything was compared and nothing failed or was ambiguous."""
        return self.status == "pass"

    def __bool__(self) -> bool:
        return self.passed

    @property
    def worst(self) -> float:
        """The largest ratio; NaN if nothing was compared by ratio."""
        ratios = [row.ratio for row in self.rows if row.ratio is not None]
        return max(ratios) if ratios else math.nan

    def table(self, *, full: bool = False) -> str:
        """Return the verdict as text: a line for each leaf with its worst case; every row with ``full``.

        What did not pass stands first.
        """
        rows = sorted(self.rows if full else _worst_rows(self.rows), key=lambda row: _ORDER[row.status])
        cells = [("leaf", "case", "dtype", "rmse", "yardstick", "ratio", "limit", "status")]
        for row in rows:
            numbers = [_short(value) for value in (row.rmse, row.yardstick, row.ratio)]
            status = row.status + (f": {row.reason}" if row.reason else "")
            cells.append((row.leaf, row.case, row.dtype, *numbers, f"{row.limit:g}", status))  # type: ignore[arg-type]
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]) - 1)]
        lines = [
            f"{self.status.upper()}  {self.path} on {self.device}: {len(self.rows)} comparisons, "
            f"worst ratio {_short(self.worst)}"
        ]
        lines += [
            "  " + "  ".join([*(c.ljust(w) for c, w in zip(line[:-1], widths, strict=True)), line[-1]]).rstrip()
            for line in cells
        ]
        for predicate in self.predicates:
            lines.append(
                f"  If at {predicate.source or '?'}: takes {predicate.taken}, margin {_short(predicate.margin)}, "
                f"rounding {_short(predicate.rounding)}: {predicate.status}"
            )
        lines += [f"  kink: {kink}" for kink in self.kinks]
        lines += [f"  lifted to float64 for the truth: {line}" for line in self.lifted]
        if self.divergence is not None:
            lines.append(f"  {self.divergence}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON (numbers that are not finite become text)."""
        plain: dict[str, Any] = _plain(
            {**dataclasses.asdict(self), "status": self.status, "passed": self.passed, "worst": self.worst}
        )
        return plain

    def raise_if_failed(self) -> Verdict:
        """Return the verdict itself if it passed.

        Raises:
            VerificationError: With the table, if it did not.
        """
        if not self.passed:
            raise VerificationError(self.table())
        return self

    def __str__(self) -> str:
        return self.table()


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


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
