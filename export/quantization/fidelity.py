"""The arithmetic of a quantised file's verdict: what is left of the signal, and how many answers are the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from export.errors import ArgumentError
from export.quantization.intervals import mcnemar, wilson
from export.quantization.quantization_verdict import Accuracy, Agreement, Leaf

__all__ = ["agreement", "classes", "joined", "judged"]

Array = np.ndarray[Any, Any]

MIN_RELATIVE_DEVIATION = 2.0**-20
"""Values whose deviation over the samples is below this part of their size are taken as constant: it is rounding."""


def joined(parts: Sequence[Array], *, batched: bool) -> Array:
    """Put the results of several batches together, samples on axis 0.

    Args:
        parts: one array a batch.
        batched: whether axis 0 of each is a batch of samples; otherwise each array is one sample.

    Returns:
        The samples; a single column of all values if the other sizes differ between batches.
    """
    whole = [part if batched and part.ndim else part[None] for part in parts]
    if len({part.shape[1:] for part in whole}) == 1:
        return np.concatenate(whole)
    return np.concatenate([part.reshape(-1, 1) for part in whole])


def judged(leaf: str, own: Array, floats: Array, baseline: Array, limit_db: float, *, exact: bool) -> Leaf:
    """Judge one float output.

    Args:
        leaf: its name.
        own: the quantised file's values, samples on axis 0.
        floats: the float file's values.
        baseline: the values that errors are measured from.
        limit_db: the least ratio that passes.
        exact: whether the float file is itself the baseline.
    """
    problem = _misfit(own, floats, baseline)
    if problem:
        return Leaf(leaf, None, None, None, None, limit_db, "fail", problem)
    target, error = baseline.astype(np.float64), own.astype(np.float64) - baseline
    if not target.size:
        return Leaf(leaf, None, None, None, None, limit_db, "fail", "holds no values, so nothing was compared")
    signal = power(target)
    ratio = decibels(signal, float(np.square(error).mean()))
    other = None if exact else decibels(signal, float(np.square(floats - target).mean()))
    sizes = float(np.linalg.norm(own.astype(np.float64)) * np.linalg.norm(target))
    cosine = float(np.vdot(own.astype(np.float64), target)) / sizes if sizes else float(not error.any())
    passed = ratio >= limit_db
    return Leaf(
        leaf,
        ratio,
        other,
        cosine,
        float(np.abs(error).max()),
        limit_db,
        "pass" if passed else "fail",
        "" if passed else f"{limit_db - ratio:.1f} dB below the limit",
        decibels(float(np.square(target).mean()), float(np.square(error).mean())),
    )


def power(baseline: Array) -> float:
    """Return the variance of the values over the samples, or their mean square if they do not vary.

    >>> power(np.array([[1.0, 5.0], [3.0, 5.0]])), power(np.array([[2.0]]))
    (0.5, 4.0)
    """
    mean = baseline.mean(axis=0, keepdims=True)
    varying, whole = float(np.square(baseline - mean).mean()), float(np.square(baseline).mean())
    return varying if varying > MIN_RELATIVE_DEVIATION**2 * whole else whole


def decibels(signal: float, noise: float) -> float:
    """Return 10 log₁₀ of signal over noise; infinite without noise.

    >>> decibels(100.0, 1.0), decibels(0.0, 0.0)
    (20.0, inf)
    """
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def agreement(leaf: str, own: Array, floats: Array, limit: float, ties: int = 0) -> Agreement:
    """Judge how many integers are the same."""
    samples = floats.size
    same = int((own == floats).sum()) if own.shape == floats.shape and own.dtype == floats.dtype else 0
    low, high = wilson(same, samples)
    return Agreement(leaf, same, samples, low, high, ties, limit, "pass" if samples and low >= limit else "fail")


def classes(
    leaf: str, own: Array, floats: Array, labels: Array | None, limit: float
) -> tuple[Agreement, Accuracy | None]:
    """Judge the classes with the highest scores, and compare them with labels.

    Args:
        leaf: the output with the scores, or with the classes themselves as integers.
        own: the quantised file's values, classes on the last axis.
        floats: the float file's values.
        labels: the right classes, or None.
        limit: the least lower end of the agreement's interval.

    Raises:
        ArgumentError: if the labels do not fit.
    """
    predicted, expected, ties = own, floats, 0
    if floats.dtype.kind == "f":
        if floats.ndim < 2 or own.shape != floats.shape:
            raise ArgumentError(
                f"scores: {leaf} must have samples and classes, got shape {floats.shape} from the float file and "
                f"{own.shape} from the quantised one"
            )
        predicted, expected = own.argmax(-1), floats.argmax(-1)
        ties = int(((own == own.max(-1, keepdims=True)).sum(-1) > 1).sum())
    found = agreement(leaf, predicted, expected, limit, ties)
    if labels is None:
        return found, None
    if labels.size != expected.size:
        raise ArgumentError(f"labels: {leaf} has {expected.size} samples, got {labels.size} labels")
    right, before = predicted.ravel() == labels, expected.ravel() == labels
    test = mcnemar(int((before & ~right).sum()), int((right & ~before).sum()), labels.size)
    return found, Accuracy(leaf, labels.size, float(before.mean()), float(right.mean()), test)


def _misfit(own: Array, floats: Array, baseline: Array) -> str:
    for word, values in (("the quantised file", own), ("the float file", floats)):
        if values.shape != baseline.shape:
            return f"{word} gives shape {values.shape}, expected {baseline.shape}"
        bad = int((~np.isfinite(values)).sum())
        if bad:
            return f"{bad} of {values.size} values of {word} are NaN or inf"
    return "" if np.isfinite(baseline).all() else "the baseline is NaN or inf here"
