"""What a quantised file lost, as a verdict of its own kind: rows, a table, a dictionary; no torch here.

The verdict of ``export.verify`` asks whether a file differs from the truth by more than rounding does. An 8-bit file
always does. This one asks how much of the signal is left, and whether the answers are the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

from export.errors import VerificationError
from export.files.jsonable import plain
from export.quantization.integer_kernels import Kernels
from export.quantization.intervals import McNemar

Status = Literal["pass", "fail"]

MIN_SQNR_DB = 6.02 * 4 + 1.76
"""The default limit: half of the 8 bits are left, by the formula of an ideal converter, 6.02 dB a bit + 1.76 dB."""

MIN_AGREEMENT = 0.95
"""The default limit of the lower end of the 95 % interval of the agreement."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One float output over all held-out batches.

    The signal is how much the truth varies over the samples (its variance; an offset that is the same for every sample
    tells nothing about one), or its mean square where it does not vary or there is one sample.

    Attributes:
        leaf: Its dotted name.
        sqnr_db: Signal over the quantised file's mean squared error, in dB.
        float_sqnr_db: The same of the float file; None if the float file is itself the truth.
        cosine: Cosine between the quantised file's values and the truth.
        largest: The largest error, in the leaf's own unit.
        limit_db: The least ``sqnr_db`` that passes.
        status: "pass" or "fail".
        reason: Why it failed.
    """

    leaf: str
    sqnr_db: float | None
    float_sqnr_db: float | None
    cosine: float | None
    largest: float | None
    limit_db: float
    status: Status
    reason: str = ""

    @property
    def bits(self) -> float | None:
        """How many bits an ideal converter of that ratio has: (dB - 1.76) / 6.02."""
        return None if self.sqnr_db is None else (self.sqnr_db - 1.76) / 6.02


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How often the quantised file answers as the float file does: the class with the highest score, or integers.

    Attributes:
        leaf: The output.
        same: Answers that are the same.
        samples: All answers.
        low: Lower end of Wilson's 95 % interval of their share; this is what the limit is for.
        high: Its upper end.
        ties: Samples whose highest score several classes share, which coarse scores make likely; the first is taken.
        limit: The least ``low`` that passes.
        status: "pass" or "fail".
    """

    leaf: str
    same: int
    samples: int
    low: float
    high: float
    ties: int
    limit: float
    status: Status

    @property
    def share(self) -> float:
        """The part of the answers that are the same."""
        return self.same / self.samples if self.samples else math.nan


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Both files against labels; it is reported, not judged.

    Attributes:
        leaf: The output.
        samples: How many labels.
        float_accuracy: Part that the float file reads rightly.
        accuracy: Part that the quantised file reads rightly.
        test: McNemar's exact test of the difference.
    """

    leaf: str
    samples: int
    float_accuracy: float
    accuracy: float
    test: McNemar


@dataclasses.dataclass(frozen=True)
class Latency:
    """Calls of both files in turn on the first batch, in this process.

    Attributes:
        float_ms: Median milliseconds of the float file.
        quantized_ms: The same of the quantised one.
        ratio: Median of quantised over float, call by call.
        low: The ratios' lower quartile.
        high: Their upper quartile.
        calls: How many calls of each.
    """

    float_ms: float
    quantized_ms: float
    ratio: float
    low: float
    high: float
    calls: int


@dataclasses.dataclass(frozen=True)
class QuantizationVerdict:
    """Whether a quantised file still answers as the float one did, on data that it was not calibrated with.

    Attributes:
        path: The quantised file.
        reference: The float file.
        truth: What errors are counted from: "eager float64", or "the float file".
        leaves: One entry for each float output.
        agreements: One entry for the scores and each integer output.
        accuracy: Both files against labels, if there were any.
        kernels: What ran on 8-bit integers, and what on floats.
        size: Bytes of the quantised file.
        reference_size: Bytes of the float file.
        latency: How long both take, if that was asked for.
        batches: How many batches were held out.
        device: Where both files ran.
        problems: What makes a comparison impossible, such as another structure.
    """

    path: str
    reference: str
    truth: str
    leaves: tuple[Leaf, ...]
    agreements: tuple[Agreement, ...]
    accuracy: Accuracy | None
    kernels: Kernels
    size: int
    reference_size: int
    latency: Latency | None
    batches: int
    device: str
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether something was compared and everything is within its limit."""
        rows: tuple[Leaf | Agreement, ...] = (*self.leaves, *self.agreements)
        return bool(rows) and not self.problems and all(row.status == "pass" for row in rows)

    @property
    def status(self) -> Status:
        """Return "pass" or "fail"."""
        return "pass" if self.passed else "fail"

    def __bool__(self) -> bool:
        return self.passed

    def table(self) -> str:
        """Return the verdict as text."""
        lines = [
            f"{self.status.upper()}  {self.path} against {self.truth} on {self.device}, {self.batches} held-out batches"
        ]
        lines += [f"  {problem}" for problem in self.problems]
        if self.leaves:
            lines += _aligned(
                ("leaf", "SQNR dB", "limit", "bits", "float file dB", "cosine", "largest error", "status"),
                [
                    (
                        row.leaf,
                        _short(row.sqnr_db, ".1f"),
                        f"{row.limit_db:.1f}",
                        _short(row.bits, ".1f"),
                        _short(row.float_sqnr_db, ".1f"),
                        _short(row.cosine, ".5f"),
                        _short(row.largest, ".3g"),
                        row.status + (f": {row.reason}" if row.reason else ""),
                    )
                    for row in self.leaves
                ],
            )
        for found in self.agreements:
            lines.append(
                f"  {found.leaf}: {found.same} of {found.samples} answers are the float file's ({found.share:.1%}, "
                f"95 % interval {found.low:.1%} to {found.high:.1%}, limit {found.limit:.1%} for its lower end; "
                f"{found.ties} ties): {found.status}"
            )
        if self.accuracy is not None:
            own, test = self.accuracy, self.accuracy.test
            lines.append(
                f"  {own.leaf}: accuracy {own.float_accuracy:.1%} → {own.accuracy:.1%} on {own.samples} labels; "
                f"{test.lost} lost, {test.gained} gained: McNemar's exact p = {test.p:.3g}, "
                f"change {test.change:+.1%} ({test.low:+.1%} to {test.high:+.1%})"
            )
        lines.append(f"  {self.kernels}")
        for op, names in self.kernels.floating.items():
            lines.append(f"    float {op}: {', '.join(names)}")
        lines.append(f"  size {self.size:,} of {self.reference_size:,} bytes, {self.size / self.reference_size:.0%}")
        if self.latency is not None:
            time = self.latency
            lines.append(
                f"  {time.float_ms:.3g} ms → {time.quantized_ms:.3g} ms a call, ratio {time.ratio:.2f} "
                f"(quartiles {time.low:.2f} to {time.high:.2f}, {time.calls} calls)"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON (numbers that are not finite become text)."""
        found: dict[str, Any] = plain({**dataclasses.asdict(self), "status": self.status, "passed": self.passed})
        return found

    def raise_if_failed(self) -> QuantizationVerdict:
        """Return the verdict itself if it passed.

        Raises:
            VerificationError: With the table, if it did not.
        """
        if not self.passed:
            raise VerificationError(self.table())
        return self

    def __str__(self) -> str:
        return self.table()


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def _short(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
