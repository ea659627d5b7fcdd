"""One row of the theory table: what was predicted, what was measured, and whether they agree as they should."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pure.flow.shared.estimate import Estimate
from pure.flow.shared.text_table import number, table
from pure.flow.theory import Comparison, Prediction, compare

ROUNDING = 1e-12


@dataclass(frozen=True)
class Row:
    """`passed` says whether the outcome is the expected one: a law agrees, a negative control is rejected."""

    law: str
    claim: str
    predicted: float
    measured: str
    score: str
    verdict: str
    passed: bool


def identity(law: str, claim: str, error: float, limit: float = ROUNDING) -> Row:
    """An equation without randomness, by its relative error."""
    verdict = "holds" if error <= limit else "BROKEN"
    return Row(law, claim, 0.0, number(error), f"≤ {limit:.0e}", verdict, error <= limit)


def value(law: str, claim: str, predicted: float, found: float, limit: float = ROUNDING) -> Row:
    """A number without randomness."""
    error = abs(found / predicted - 1)
    return Row(
        law, claim, predicted, number(found), f"{error:.0e}", "holds" if error <= limit else "BROKEN", error <= limit
    )


def row(claim: str, comparison: Comparison, *, rejected: bool = False) -> Row:
    """A law beside its measurement; a negative control is to be `rejected`."""
    law, found = comparison.prediction, comparison.measured
    exact = law.kind == "exact"
    score = f"z {comparison.z:+.2f}" if exact else f"{comparison.relative_error:+.2%}"
    passed = comparison.verdict == ("disagrees" if rejected else "agrees")
    wanted = {True: "rejected, as it should", False: f"NOT REJECTED ({comparison.verdict})"}[passed]
    verdict = wanted if rejected else comparison.verdict if passed else comparison.verdict.upper()
    interval = f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"
    return Row(law.law, claim, law.predicted, interval, score, verdict, passed)


def law(letter: str, claim: str, predicted: float, found: Estimate, kind: str = "exact", rejected: bool = False) -> Row:
    """A prediction made by a formula, held against an estimate."""
    prediction = Prediction(letter, claim, predicted, "exact" if kind == "exact" else "limit", "", "second")
    return row(claim, compare(prediction, found), rejected=rejected)


def text(rows: Sequence[Row]) -> str:
    """The table, what it counts, and what of it is to be expected by chance."""
    cells = [
        [r.claim, r.law, number(r.predicted) if r.predicted else "0", r.measured, r.score, r.verdict] for r in rows
    ]
    exact = sum(r.score.startswith("z") and not r.verdict.startswith("rejected") for r in rows)
    wrong = [r for r in rows if not r.passed]
    header = ["law or identity", "law", "predicted", "measured [95% interval]", "z or error", "verdict"]
    chance = -math.expm1(exact * math.log1p(-math.erfc(3 / math.sqrt(2))))
    return "\n".join(
        [
            table(header, cells),
            f"{len(rows)} rows, {len(rows) - len(wrong)} as theory says; seeds are fixed. On other seeds, {exact} true "
            f"exact laws at |z| < 3 would show a false alarm with a chance of up to {chance:.0%}.",
            *[f"WRONG: {r.claim}: predicted {number(r.predicted)}, measured {r.measured}" for r in wrong],
        ]
    )
