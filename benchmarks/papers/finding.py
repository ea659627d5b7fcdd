"""What one reproduction says: the set-up, the paper's claims, what was found with 95 % intervals, and the verdict."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from pure.flow.shared.estimate import Estimate, estimate

LEAST_SEEDS = 4


def mean(samples: Any) -> Estimate:
    """The mean over seeds with Student's 95 % interval."""
    values = torch.as_tensor(np.asarray(samples, dtype=np.float64))
    if values.ndim != 1 or len(values) < LEAST_SEEDS or not values.isfinite().all():
        raise ValueError(f"expected one finite number for each of at least {LEAST_SEEDS} seeds, got {values.tolist()}")
    return estimate(values)


def geometric(samples: Any) -> Estimate:
    """The geometric mean of positive numbers over seeds, with the interval of the mean of their logarithms."""
    found = mean(np.log(np.asarray(samples, dtype=np.float64)))
    value, low, high = (math.exp(part) for part in (found.value, found.low, found.high))
    return Estimate(value, low, high, value * found.standard_error, found.probes)


def ratio(numerators: Any, denominators: Any) -> Estimate:
    """The ratio of two means over the same seeds, with the interval of its linearisation (the delta method)."""
    a, b = (np.asarray(part, dtype=np.float64) for part in (numerators, denominators))
    value = float(a.mean() / b.mean())
    around = mean((a - value * b) / b.mean())
    return Estimate(value, value + around.low, value + around.high, around.standard_error, around.probes)


def scaled(found: Estimate, factor: float) -> Estimate:
    """The estimate times an exact positive number."""
    parts = (factor * part for part in (found.value, found.low, found.high, found.standard_error))
    return Estimate(*parts, found.probes)


def exact(value: float) -> Estimate:
    """A number that no draw has a part in."""
    return Estimate(float(value), float(value), float(value), 0.0, 0)


def exponents(x: Sequence[float], y: Any) -> np.ndarray:
    """For each seed (row) the exponent b of y ≈ a·xᵇ, by least squares on logarithms."""
    logs = np.log(np.asarray(x, dtype=np.float64))
    centred = logs - logs.mean()
    return np.log(np.asarray(y, dtype=np.float64)) @ centred / (centred @ centred)


def band(samples: Any, of: Callable[[Any], Estimate] = geometric) -> dict[str, list[float]]:
    """For (seeds, points): value, low and high at each point, ready to draw."""
    found = [of(column) for column in np.asarray(samples, dtype=np.float64).T]
    return {key: [getattr(estimate, key) for estimate in found] for key in ("value", "low", "high")}


@dataclass(frozen=True)
class Finding:
    """One claim and what was found.

    Attributes:
        name: Of the claim, short.
        claim: What the paper says, in our words.
        rule: What the numbers must do for the claim to hold.
        found: The numbers, by what they are.
        holds: Whether they do.
        ours: Whether the claim is not the paper's but ours, beside it; the verdict leaves it out.
    """

    name: str
    claim: str
    rule: str
    found: Mapping[str, Estimate]
    holds: bool
    ours: bool = False


@dataclass(frozen=True)
class Reproduction:
    """All that one module found.

    Attributes:
        name: Of the module.
        paper: Authors, year, number at arXiv, and the figure or theorem.
        setup: Sizes, seeds, source of the data.
        findings: The claims, each with its numbers.
        deviations: Where the set-up is not the paper's.
        curves: What the picture shows, as plain lists.
        size: "full", "quick" or "tiny".
    """

    name: str
    paper: str
    setup: Mapping[str, Any]
    findings: tuple[Finding, ...]
    deviations: tuple[str, ...]
    curves: Mapping[str, Any] = field(repr=False)
    size: str = "full"

    @property
    def verdict(self) -> str:
        """How many of the paper's claims hold, in words."""
        claims = [finding.holds for finding in self.findings if not finding.ours]
        return "agrees" if all(claims) else "agrees in part" if any(claims) else "does not agree"

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "name": self.name,
            "paper": self.paper,
            "size": self.size,
            "verdict": self.verdict,
            "setup": dict(self.setup),
            "findings": [asdict(finding) for finding in self.findings],
            "deviations": list(self.deviations),
            "curves": dict(self.curves),
        }
