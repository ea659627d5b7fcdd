"""The arithmetic of a verdict: squared errors pooled over inputs, the yardstick with its floor, and the ratio."""

from __future__ import annotations

import dataclasses
import math

import torch

from export.lowering.builder import REDUCED, dtype_name
from export.verdict import Row, Status

FLOOR_ULP = 2.0
"""The yardstick's floor, in ULP of the leaf's root mean square."""

LIMIT, HALF_LIMIT = 2.0, 3.0
"""The largest ratio that passes, and that of half types."""

COARSE = 2.0**-29 * math.sqrt(2)
"""From a float32 function's error to a float64 one's: the ULPs' ratio, times √2 as the truth has that error too."""


@dataclasses.dataclass
class Errors:
    """Squared errors of one leaf, summed over the varied inputs.

    Attributes:
        file: Of the file against the truth.
        eager: Of eager against the truth.
        norm: Of the truth itself.
        count: How many numbers were compared.
    """

    file: float = 0.0
    eager: float = 0.0
    norm: float = 0.0
    count: int = 0

    def add(self, file: torch.Tensor, truth: torch.Tensor, error: torch.Tensor) -> None:
        """Add one run: the file's values, the truth, and eager's error."""
        target = truth.double()
        self.file += float((file.double() - target).square().sum())
        self.eager += float(error.double().square().sum())
        self.norm += float(target.square().sum())
        self.count += target.numel()


def bound(dtype: torch.dtype, limit: float | None) -> float:
    """Return the largest ratio that passes for a dtype."""
    return limit if limit is not None else HALF_LIMIT if dtype in REDUCED else LIMIT


def numeric_row(leaf: str, case: str, dtype: torch.dtype, errors: Errors, limit: float | None) -> Row:
    """Judge a float leaf by its pooled errors."""
    most = bound(dtype, limit)
    if not errors.count:
        # An empty tensor of the right shape.
        return Row(leaf, case, dtype_name(dtype), None, None, None, most, "pass")
    rmse, eager, norm = (math.sqrt(value / errors.count) for value in (errors.file, errors.eager, errors.norm))
    yardstick = max(eager, FLOOR_ULP * torch.finfo(dtype).eps * norm)
    ratio = rmse / yardstick if yardstick else (0.0 if rmse == 0 else math.inf)
    status: Status = "pass" if ratio <= most else "fail"
    reason = "" if status == "pass" else f"the error is {ratio:.3g} times the yardstick"
    return Row(leaf, case, dtype_name(dtype), ratio, rmse, yardstick, most, status, reason)


def misfit(own: torch.Tensor, reference: torch.Tensor) -> str:
    """Say what is wrong with a leaf before its rounding is looked at; integers and booleans must be equal."""
    if own.shape != reference.shape:
        return f"shape {tuple(own.shape)}, expected {tuple(reference.shape)}"
    if own.dtype != reference.dtype:
        return f"dtype {dtype_name(own.dtype)}, expected {dtype_name(reference.dtype)}"
    if own.is_floating_point():
        bad = int((~own.isfinite()).sum())
        return f"{bad} of {own.numel()} values are NaN or inf" if bad else ""
    wrong = int((own != reference).sum())
    return f"{wrong} of {own.numel()} values differ" if wrong else ""


def finite(x: torch.Tensor) -> bool:
    """Tell whether every value is a number."""
    return bool(x.isfinite().all())
