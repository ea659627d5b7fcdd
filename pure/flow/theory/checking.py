"""`check`: compares a block's predictions with draws of its initial parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pure import tree
from pure.block import Block, specification
from pure.errors import ArgumentError
from pure.flow.shared.estimate import Estimate, estimate
from pure.flow.shared.input_checks import check_outermost
from pure.flow.shared.result import PlainData, Readings
from pure.flow.shared.text_table import number, table
from pure.flow.theory.applicable_laws import predict
from pure.flow.theory.draw_measurements import Measured, measured
from pure.flow.theory.prediction import Prediction, Predictions, refusals
from pure.flow.theory.ratio_estimate import mean_ratio, z_score
from pure.initializers import Device, check_generator

__all__ = ["Check", "Comparison", "check", "compare"]

Verdict = Literal["agrees", "disagrees", "undecided"]

Z_LIMIT = 3.0
LIMIT_TOLERANCE = 0.05
MAX_RELATIVE_ERROR = 0.1
"""An exact law is not decided on a standard error of more than this share of the prediction: it could reject little."""


@dataclass(frozen=True)
class Comparison(PlainData):
    """One prediction beside its measurement.

    Attributes:
        prediction: what theory says.
        measured: what the draws give, with the 95% interval.
        z: standard errors from the prediction to the measurement.
        relative_error: measured / predicted − 1.
        verdict: an exact law agrees below |z| = 3, a limit law within 5%; "undecided" where the draws are too few to
            tell.
    """

    prediction: Prediction
    measured: Estimate
    z: float
    relative_error: float
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class Check(Readings[str, Comparison]):
    """Predictions against draws. As a mapping: {quantity: comparison}.

    Attributes:
        comparisons: by quantity.
        refused: {law: why it does not hold for this block}.
        draws: how many networks were drawn.
    """

    comparisons: dict[str, Comparison]
    refused: dict[str, str]
    draws: int

    @property
    def _readings(self) -> Mapping[str, Comparison]:
        return self.comparisons

    @property
    def agrees(self) -> bool:
        """Whether there is a prediction and every one agrees."""
        return bool(self.comparisons) and all(entry.verdict == "agrees" for entry in self.comparisons.values())

    @property
    def false_alarms(self) -> float:
        """An upper bound on the chance that some exact law, though true, shows |z| ≥ 3: 0.27% for each."""
        return min(1.0, math.erfc(Z_LIMIT / math.sqrt(2)) * sum(c.prediction.kind == "exact" for c in self.values()))

    def table(self) -> str:
        """Return a plain text table, and below it why other laws do not hold."""
        rows = [
            [
                quantity,
                entry.prediction.law,
                entry.prediction.kind,
                number(entry.prediction.predicted),
                number(entry.measured.value),
                f"[{number(entry.measured.low)}, {number(entry.measured.high)}]",
                f"z {entry.z:+.2f}" if entry.prediction.kind == "exact" else f"{entry.relative_error:+.2%}",
                entry.verdict,
            ]
            for quantity, entry in self.comparisons.items()
        ]
        if not rows:
            return "\n".join(["nothing is predicted for this block", *refusals(self.refused)])
        header = ["quantity", "law", "holds", "predicted", "measured", "95% interval", "off by", "verdict"]
        lines = [table(header, rows), f"{self.draws} draws; chance of a false alarm at most {self.false_alarms:.1%}"]
        return "\n".join([*lines, *refusals(self.refused)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON, with the overall verdict."""
        return {**super().to_dict(), "agrees": self.agrees}


def check(
    block: Block,
    generator: torch.Generator,
    *,
    draws: int = 1000,
    predictions: Predictions | None = None,
    dtype: torch.dtype = torch.float64,
    device: Device = "cpu",
    probes: int = 4,
    budget_mib: float = 256.0,
) -> Check:
    """Predict, measure over draws of `block.init`, and say which laws agree.

    Each draw has its own parameters, its own two isotropic inputs at the prediction's angle, and its own isotropic
    vectors u; many draws are run in one `torch.vmap` call.

    Args:
        block: any block; where no law holds the result is empty and says why.
        generator: the only source of randomness.
        draws: how many networks, at least 2.
        predictions: what to hold the block against; None is `predict(block)`. Another block's predictions show what the
            check would reject.
        dtype: of parameters and inputs.
        device: of the computation.
        probes: isotropic vectors u that each draw is averaged over: the wider the network, the more they help.
        budget_mib: memory for the parameters of the draws that run together, in MiB.

    Raises:
        ArgumentError: no block, no generator, or fewer than 2 draws or 1 probe.
        UnsupportedError: called inside a torch.func transform.

    Example:
        >>> from pure import nets
        >>> found = check(nets.residual_mlp(16, 16, 3), torch.Generator().manual_seed(0), draws=400)
        >>> found["E‖Ju‖²"].verdict
        'agrees'
    """
    check_outermost("theory.check")
    check_generator(generator)
    if draws < 2 or probes < 1:
        raise ArgumentError(f"check draws={draws}, probes={probes}: expected at least 2 draws and 1 probe")
    predictions = predict(block) if predictions is None else predictions
    if not predictions:
        return Check({}, dict(predictions.refused), 0)
    orders = 1 + max((p.order for p in predictions.values()), default=0)
    size = sum(leaf.numel() for leaf in tree.leaves(specification(block)[0])) * dtype.itemsize
    draws_at_once = max(1, min(draws, math.floor(budget_mib * 2**20 / max(1, size))))
    found = measured(block, predictions, generator, draws, draws_at_once, probes, orders, dtype, device)
    comparisons = {name: compare(p, _estimate(p, found, predictions.mean_square)) for name, p in predictions.items()}
    return Check(comparisons, dict(predictions.refused), draws)


def compare(prediction: Prediction, measured: Estimate) -> Comparison:
    """Return a prediction beside a measurement, with the verdict.

    Args:
        prediction: what theory says.
        measured: the estimate.
    """
    predicted = prediction.predicted
    z = z_score(measured, predicted)
    scale = abs(predicted) or 1.0
    relative = (measured.value - predicted) / scale
    half = (measured.high - measured.low) / 2 / scale
    verdict: Verdict
    if prediction.kind == "exact":
        quiet = measured.standard_error <= MAX_RELATIVE_ERROR * scale
        verdict = "disagrees" if not abs(z) < Z_LIMIT else "agrees" if quiet else "undecided"
    elif abs(relative) - half > LIMIT_TOLERANCE or math.isnan(relative):
        verdict = "disagrees"
    else:
        verdict = "agrees" if abs(relative) <= LIMIT_TOLERANCE and half <= LIMIT_TOLERANCE else "undecided"
    return Comparison(prediction, measured, z, relative, verdict)


def _estimate(prediction: Prediction, found: Measured, mean_square: float) -> Estimate:
    """Return the estimate of one quantity from what was measured in every draw."""
    squares = found.squares
    if prediction.measure == "second":
        return estimate(squares)
    if prediction.measure == "fourth":
        return estimate(found.fourths)
    if prediction.measure == "trace":
        return estimate(found.back)
    if prediction.measure == "ratio":
        return mean_ratio(found.back, squares, power=2)
    if prediction.measure == "forward":
        return estimate(found.outputs / mean_square)
    if prediction.measure == "path":
        return estimate(found.paths[:, prediction.order])
    return mean_ratio(found.products, (squares + found.other_squares) / 2)
