"""Times functions side by side: warm-up, interleaved rounds, median and spread, and ratios with an interval.

In each round every contender is timed once, one right after the other and in an order that rotates, so that a machine
that slows down slows all of them. A ratio is computed from the same rounds, never from two runs.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Contender:
    """One thing to time.

    Attributes:
        name: What the table calls it.
        call: Does the work once and returns its result, which the comparison checks before timing.
        finish: Waits for work that `call` only started, such as `torch.cuda.synchronize`; part of the time.
    """

    name: str
    call: Callable[[], object]
    finish: Callable[[], object] | None = None


@dataclass(frozen=True)
class Comparison:
    """Contenders that compute the same thing; the first is the one that the ratios divide by.

    Attributes:
        name: What is compared, such as "call, width 16, batch 1".
        contenders: Two or more; the first is the reference.
        agree: Raises AssertionError where a contender's result is not the reference's; called as
            `agree(reference_result, result)` before anything is timed.
        notes: Plain facts to print and to store, such as sizes.
    """

    name: str
    contenders: tuple[Contender, ...]
    agree: Callable[[object, object], None]
    notes: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """How long to measure.

    Attributes:
        rounds: Timed rounds; in each, every contender is timed once.
        sample_seconds: The least time of one timed sample, reached by calling a fast function several times.
        warm_up_seconds: How long each contender runs before timing.
        warm_up_calls: How many calls of each come before timing, at least.
        settle_seconds: How long a contender runs untimed before each of its samples, so that caches and waiting threads
            are its own and no longer those of the contender before it.
    """

    rounds: int = 40
    sample_seconds: float = 0.01
    warm_up_seconds: float = 0.3
    warm_up_calls: int = 3
    settle_seconds: float = 0.0


QUICK = Budget(rounds=7, sample_seconds=0.001, warm_up_seconds=0.01)


@dataclass(frozen=True)
class Timing:
    """Seconds a call of one contender, and its ratio to the reference in the same rounds.

    Attributes:
        name: The contender's name.
        seconds: One number a round: the mean seconds a call in that round's sample.
        calls_a_sample: How many calls one sample held.
        ratio: Median over the rounds of this contender's seconds divided by the reference's.
        ratio_interval: 95 % bootstrap interval of that median, over rounds.
    """

    name: str
    seconds: tuple[float, ...]
    calls_a_sample: int
    ratio: float
    ratio_interval: tuple[float, float]

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile of the seconds a call."""
        lower, median, upper = np.percentile(self.seconds, [25, 50, 75])
        return float(lower), float(median), float(upper)

    def to_dict(self) -> dict[str, object]:
        """As plain data, with the spread and every round's number."""
        lower, median, upper = self.quartiles
        return {
            "name": self.name,
            "median_seconds": median,
            "lower_quartile_seconds": lower,
            "upper_quartile_seconds": upper,
            "ratio": self.ratio,
            "ratio_interval_95": list(self.ratio_interval),
            "rounds": len(self.seconds),
            "calls_a_sample": self.calls_a_sample,
            "seconds": list(self.seconds),
        }


@dataclass(frozen=True)
class Measurement:
    """A comparison's timings, in the order of its contenders."""

    name: str
    notes: dict[str, object]
    timings: tuple[Timing, ...]

    def to_dict(self) -> dict[str, object]:
        """As plain data."""
        return {"name": self.name, "notes": self.notes, "timings": [timing.to_dict() for timing in self.timings]}


def measure(comparison: Comparison, budget: Budget) -> Measurement:
    """Check that the contenders agree, then time them.

    Args:
        comparison: What to time; at least two contenders.
        budget: How long to measure.

    Returns:
        Timings, with ratios to the first contender.

    Raises:
        ValueError: Fewer than two contenders.
        AssertionError: A contender computes something else than the first.
    """
    if len(comparison.contenders) < 2:
        raise ValueError(f"{comparison.name}: {len(comparison.contenders)} contender, a comparison needs two or more")
    first, *others = comparison.contenders
    expected = first.call()
    for other in others:
        comparison.agree(expected, other.call())
    calls = [warm_up(contender, budget) for contender in comparison.contenders]
    seconds = interleave(comparison.contenders, calls, budget.rounds, budget.settle_seconds)
    timings = []
    for index, contender in enumerate(comparison.contenders):
        ratio, interval = paired_ratio(seconds[index], seconds[0])
        timings.append(Timing(contender.name, tuple(seconds[index].tolist()), calls[index], ratio, interval))
    return Measurement(comparison.name, comparison.notes, tuple(timings))


def warm_up(contender: Contender, budget: Budget) -> int:
    """Run the contender for the warm-up time, and return how many calls fill one sample."""
    calls, start = 0, time.perf_counter()
    while calls < budget.warm_up_calls or time.perf_counter() - start < budget.warm_up_seconds:
        contender.call()
        calls += 1
    if contender.finish is not None:
        contender.finish()
    seconds_a_call = (time.perf_counter() - start) / calls
    return max(1, round(budget.sample_seconds / seconds_a_call))


def interleave(
    contenders: Sequence[Contender], calls: Sequence[int], rounds: int, settle_seconds: float = 0.0
) -> np.ndarray:
    """Seconds a call, of shape (contenders, rounds). The garbage collector is off while a sample is timed."""
    seconds = np.empty((len(contenders), rounds))
    for turn in range(rounds):
        for step in range(len(contenders)):
            index = (turn + step) % len(contenders)
            seconds[index, turn] = sample(contenders[index], calls[index], settle_seconds)
    return seconds


def sample(contender: Contender, calls: int, settle_seconds: float = 0.0) -> float:
    """Mean seconds a call over `calls` calls in a row, after as many as take `settle_seconds`."""
    call = contender.call
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        while time.perf_counter() - start < settle_seconds:
            call()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        if contender.finish is not None:
            contender.finish()
        return (time.perf_counter() - start) / calls
    finally:
        gc.enable()


def paired_ratio(
    seconds: np.ndarray, reference: np.ndarray, resamples: int = 2000
) -> tuple[float, tuple[float, float]]:
    """Median over rounds of seconds / reference, with its 95 % bootstrap interval (rounds drawn with replacement)."""
    ratios = seconds / reference
    draws = np.random.default_rng(0).integers(len(ratios), size=(resamples, len(ratios)))
    lower, upper = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    return float(np.median(ratios)), (float(lower), float(upper))
