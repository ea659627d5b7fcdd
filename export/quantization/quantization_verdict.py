"""What a quantised file lost, as a verdict of its own kind: rows, a table, a dictionary; no torch here.

The verdict of `export.verify` asks whether a file differs from the reference by more than rounding does. An 8-bit file
always does. This one asks how much of the signal is left, and whether the answers are the same.
"""

from __future__ import annotations

import dataclasses
import math

from export.quantization.integer_kernels import Kernels
from export.quantization.intervals import McNemar
from export.verdict.verdict_result import Judgement, Status, columns

__all__ = ["MIN_AGREEMENT", "MIN_SQNR_DB", "Accuracy", "Agreement", "Latency", "Leaf", "QuantizationVerdict"]

MIN_SQNR_DB = 6.02 * 4 + 1.76
"""The default limit: half of the 8 bits are left, by the formula of an ideal converter, 6.02 dB a bit + 1.76 dB."""

MIN_AGREEMENT = 0.95
"""The default limit of the lower end of the 95 % interval of the agreement."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One float output over all held-out batches.

    The signal is the baseline's variance over the samples (an offset that is the same for every sample tells nothing
    about one), or its mean square where it does not vary or there is one sample.

    Attributes:
        leaf: its dotted name.
        sqnr_db: signal over the quantised file's mean squared error, in dB.
        float_sqnr_db: the same of the float file; None if the float file is itself the baseline.
        cosine: cosine between the quantised file's values and the baseline's.
        largest: the largest error, in the leaf's own unit.
        limit_db: the least `sqnr_db` that passes.
        status: "pass" or "fail".
        reason: why it failed.
        raw_sqnr_db: the ratio with the offset counted as signal: the baseline's mean square over the error.
    """

    leaf: str
    sqnr_db: float | None
    float_sqnr_db: float | None
    cosine: float | None
    largest: float | None
    limit_db: float
    status: Status
    reason: str = ""
    raw_sqnr_db: float | None = None

    @property
    def bits(self) -> float | None:
        """How many bits an ideal converter of that ratio has: (dB - 1.76) / 6.02."""
        return None if self.sqnr_db is None else (self.sqnr_db - 1.76) / 6.02


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How often the quantised file answers as the float file does: the class with the highest score, or integers.

    Attributes:
        leaf: the output.
        same: answers that are the same.
        samples: all answers.
        low: lower end of Wilson's 95 % interval of their share; this is what the limit is for.
        high: its upper end.
        ties: samples whose highest score several classes share, which coarse scores make likely; the first is taken.
        limit: the least `low` that passes.
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
        leaf: the output.
        samples: how many labels.
        float_accuracy: part that the float file reads rightly.
        accuracy: part that the quantised file reads rightly.
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
        float_ms: median milliseconds of the float file.
        quantized_ms: the same of the quantised one.
        ratio: median of quantised over float, call by call.
        low: the ratios' lower quartile.
        high: their upper quartile.
        calls: how many calls of each.
    """

    float_ms: float
    quantized_ms: float
    ratio: float
    low: float
    high: float
    calls: int


@dataclasses.dataclass(frozen=True, repr=False)
class QuantizationVerdict(Judgement):
    """Whether a quantised file still answers as the float one did, on data that it was not calibrated with.

    Attributes:
        path: the quantised file.
        reference: the float file.
        baseline: what errors are measured from: "eager float64", or "the float file".
        leaves: one entry for each float output.
        agreements: one entry for the scores and each integer output.
        accuracy: both files against labels, if there were any.
        kernels: what ran on 8-bit integers, and what on floats.
        size: bytes of the quantised file.
        reference_size: bytes of the float file.
        latency: how long both take, if that was asked for.
        batches: how many batches were held out.
        device: where both files ran.
        problems: what makes a comparison impossible, such as another structure.
    """

    path: str
    reference: str
    baseline: str
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
    def status(self) -> Status:
        """The status: "pass" if something was compared and everything is within its limit, else "fail"."""
        rows: tuple[Leaf | Agreement, ...] = (*self.leaves, *self.agreements)
        return "pass" if rows and not self.problems and all(row.status == "pass" for row in rows) else "fail"

    def table(self) -> str:
        """Return the verdict as text."""
        lines = [
            f"{self.status.upper()}  {self.path} against {self.baseline} on {self.device}, "
            f"{self.batches} held-out batches"
        ]
        lines += [f"  {problem}" for problem in self.problems]
        if self.leaves:
            lines += columns(
                [
                    (
                        "leaf",
                        "SQNR dB",
                        "limit",
                        "raw dB",
                        "bits",
                        "float file dB",
                        "cosine",
                        "largest error",
                        "status",
                    ),
                    *(
                        (
                            row.leaf,
                            _short(row.sqnr_db, ".1f"),
                            f"{row.limit_db:.1f}",
                            _short(row.raw_sqnr_db, ".1f"),
                            _short(row.bits, ".1f"),
                            _short(row.float_sqnr_db, ".1f"),
                            _short(row.cosine, ".5f"),
                            _short(row.largest, ".3g"),
                            row.status + (f": {row.reason}" if row.reason else ""),
                        )
                        for row in self.leaves
                    ),
                ]
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
        if self.kernels.wide:
            lines.append(
                f"    weights of {len(self.kernels.wide)} take more than 7 bits: x86 processors without VNNI "
                "instructions can overflow there; reduce_range=True cannot"
            )
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


def _short(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
