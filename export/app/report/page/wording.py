"""Sentences made from the numbers by rule: nothing on the page is written before it was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from export.app.pages.numbers import enumerated, number, percents
from export.app.report.digits import CLASSES
from export.app.report.measuring import Flow
from export.app.report.results import Results

__all__ = ["accuracy_finding", "findings", "heat_limits", "order_finding", "photo_finding", "share_finding", "trend"]

MAX_STEADY_FACTOR = 1.5
"""A ratio within this factor of 1 is called steady."""


def trend(flow: Flow) -> str:
    """Say how the median activation gradient changes from the last layer back to the first."""
    fall = flow.fall
    if fall > MAX_STEADY_FACTOR:
        return f"falls by a factor of {number(fall)}"
    if fall < 1 / MAX_STEADY_FACTOR:
        return f"grows by a factor of {number(1 / fall)}"
    return f"stays within a factor of {number(max(fall, 1 / fall))}"


def gradient_finding(results: Results) -> str:
    """Say what the gradients do at initialisation in the networks and in the reference."""
    parts = [f"{trend(r.before)} in the {r.network.title} network" for r in results.compared]
    text = (
        f"At initialisation, followed from layer {results.settings.depth} back to layer 1, the median gradient by a "
        f"layer's output {enumerated(parts)}."
    )
    for reference in results.networks:
        if reference.network.reference:
            text += f" With PyTorch's default initialisation the plain network's {trend(reference.before)}."
    return text


def order_finding(results: Results) -> str:
    """Say whether the network whose gradients fall most is also the one that reads fewest digits."""
    furthest = max(results.compared, key=lambda r: r.before.fall)
    fewest = min(results.compared, key=lambda r: sum(r.accuracies))
    if furthest is fewest:
        return (
            f"The {fewest.network.title} network, whose gradient falls furthest at initialisation, also reads the "
            "fewest digits in the end."
        )
    return (
        f"How far the gradient falls at initialisation does not order the accuracies: it falls furthest in the "
        f"{furthest.network.title} network, yet the {fewest.network.title} network reads the fewest digits in the end."
    )


def accuracy_finding(results: Results) -> str:
    """Compare the held-out accuracies after training, over all seeds."""
    (plain,) = [r for r in results.compared if r.network.name == "plain"]
    skips = [r for r in results.compared if r is not plain]
    held, count = len(results.digits.test_y), results.settings.repeats
    rest = [value for r in skips for value in r.accuracies]
    behind = sum(
        own < min(others) for own, *others in zip(plain.accuracies, *(r.accuracies for r in skips), strict=True)
    )
    if behind == count:
        relation = "with every seed it is behind all of them"
    else:
        relation = f"with {behind or 'none'} of the seeds it is behind all of them"
    text = (
        f"After the same {plain.trained.steps} steps, over {count} seeds, the plain network reads "
        f"{percents(plain.accuracies)} of {held} held-out digits and the networks with a skip {percents(rest)}: "
        f"{relation}."
    )
    for r in results.networks:
        if r.network.reference:
            learnt = "no better than guessing" if max(r.accuracies) < 1.5 / CLASSES else "more than guessing"
            text += (
                f" With PyTorch's default initialisation the plain network reads {percents(r.accuracies)}, {learnt}."
            )
    return text


def onnx_finding(results: Results) -> str:
    """Say whether the files compute the same."""
    judged = [r.judged for r in results.networks]
    verdicts = [j.verdict for j in judged] + [shot.verdict for shot in results.enhanced.shots]
    passed = sum(v.passed for v in verdicts)
    differing = sum(j.differing_answers for j in judged)
    digits = len(results.digits.test_y) * len(judged)
    worst = max(v.worst for v in verdicts)
    counted = f"All {passed}" if passed == len(verdicts) else f"{passed} of {len(verdicts)}"
    answers = "every one" if not differing else f"all but {differing}"
    return (
        f"{counted} verdicts on the exported files pass; the largest error of a number is {number(worst)} times its "
        f"own rounding scale, of 8 that may be. ONNX Runtime gives the same answer as PyTorch on {answers} of "
        f"{digits:,} readings "
        f"({len(judged)} networks, {len(results.digits.test_y)} held-out digits each)."
    )


def photo_finding(results: Results) -> str:
    """Say which pictures ran through the enhancing branch."""
    shots = results.enhanced.shots
    taken = [shot.title for shot in shots if shot.enhanced]
    left = [shot.title for shot in shots if not shot.enhanced]
    if not taken or not left:
        return f"Only one branch was taken by the {len(shots)} pictures: the demonstration failed."
    return (
        f"ONNX Runtime ran the enhancing branch for {enumerated(taken)}, and passed {enumerated(left)} through "
        "unchanged, bit for bit."
    )


def share_finding(results: Results) -> str:
    """Say how much of the gradient a tenth of the digits carries, before and after training."""
    before = [top_share(r.before) for r in results.compared]
    after = [top_share(r.after) for r in results.compared]
    return (
        "The tenth of the digits with the largest gradients carries "
        f"{_span(before)} of the sum of squared norms at initialisation and {_span(after)} after training."
    )


def top_share(flow: Flow) -> float:
    """Return the part of the summed squared parameter gradients that the top tenth of the digits carries."""
    squares = flow.parameters.double().square().sum(0).sort(descending=True).values
    total = float(squares.sum())
    return float(squares[: max(1, len(squares) // 10)].sum()) / total if total else math.nan


def _span(parts: Sequence[float]) -> str:
    low, high = f"{100 * min(parts):.0f}", f"{100 * max(parts):.0f}"
    return f"{low} %" if low == high else f"{low} to {high} %"


def findings(results: Results) -> list[str]:
    """Return the page's summary."""
    return [
        gradient_finding(results),
        f"{accuracy_finding(results)} {order_finding(results)}",
        onnx_finding(results),
        photo_finding(results),
    ]


def heat_limits(results: Results) -> tuple[float, float]:
    """Return the range of the per-sample pictures: the 2% and 100% quantile of all norms that are not 0."""
    values = torch.cat([f.parameters.flatten() for r in results.compared for f in (r.before, r.after)])
    values = values[values > 0]
    if not len(values):
        return 0.1, 1.0
    return float(torch.quantile(values, 0.02)), float(values.max())
