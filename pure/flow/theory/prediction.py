"""The result of `predict`: numbers by quantity, and reasons by law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pure.flow.shared.result import Readings
from pure.flow.shared.text_table import number, table

__all__ = ["LAWS", "Prediction", "Predictions", "refusals"]

Kind = Literal["exact", "limit"]
Measure = Literal["second", "fourth", "trace", "ratio", "forward", "correlation", "path"]

LAWS: dict[str, str] = {
    "A": "plain ReLU network",
    "B": "residual network x + α V relu(U x)",
    "C": "path energies of a residual network",
    "D": "spectrum of a residual network",
    "E": "spectrum of a plain network",
    "F": "gradient correlation across inputs",
    "G": "gradient correlation under batch normalisation",
    "H": "pre-norm network",
    "I": "highway-type mix",
}
"""What each law is about, by its letter; `predict` says which hold for a block."""


@dataclass(frozen=True)
class Prediction:
    """One number that a law gives for a block as it is initialised.

    Attributes:
        law: its letters, see `LAWS`.
        quantity: what is predicted, over draws of the parameters; u is an isotropic unit vector.
        predicted: the number; all quantities are ratios, without a unit.
        kind: "exact" at the block's own widths, or "limit" of infinite width.
        condition: what it rests on.
        measure: how `check` measures it.
        order: the number of branches, where the measure is "path".
    """

    law: str
    quantity: str
    predicted: float
    kind: Kind
    condition: str
    measure: Measure
    order: int = 0


@dataclass(frozen=True, eq=False)
class Predictions(Readings[str, Prediction]):
    """What theory says about a block. As a mapping: {quantity: prediction}.

    Attributes:
        predictions: by quantity.
        refused: {law: why it does not hold for this block}.
        angle: between the two inputs of the correlation, in radians.
        mean_square: of the features of the input.
        width: features of the input; 0 where nothing is predicted.
    """

    predictions: dict[str, Prediction]
    refused: dict[str, str]
    angle: float
    mean_square: float
    width: int

    @property
    def _readings(self) -> Mapping[str, Prediction]:
        return self.predictions

    def table(self) -> str:
        """Return a plain text table of the predictions, and below it why other laws do not hold."""
        rows = [[p.quantity, p.law, p.kind, number(p.predicted), p.condition] for p in self.predictions.values()]
        lines = [table(["quantity", "law", "holds", "predicted", "condition"], rows)]
        return "\n".join([*lines, *refusals(self.refused)])


def refusals(refused: Mapping[str, str]) -> list[str]:
    """Return one line a reason, with the laws that it is for.

    >>> refusals({"A": "no ReLU", "B": "no skip", "C": "no skip"})
    ['law A does not hold: no ReLU', 'laws B, C do not hold: no skip']
    """
    reasons: dict[str, list[str]] = {}
    for law, why in refused.items():
        reasons.setdefault(why, []).append(law)
    return [
        f"law{'s' * (len(laws) > 1)} {', '.join(laws)} do{'es' * (len(laws) == 1)} not hold: {why}"
        for why, laws in reasons.items()
    ]
