"""The arithmetic of a verdict: squared errors pooled over inputs, the rounding scale with its floor, the ratio."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch

from export.graph.onnx_types import REDUCED, dtype_name
from export.verdict.reference_runs import Outcome, Results, same_sides
from export.verdict.verdict_result import Row, Status

__all__ = [
    "FLOOR_ULP",
    "Errors",
    "Measured",
    "Settled",
    "finite",
    "largest_ratio",
    "measure",
    "misfit",
    "numeric_row",
]

FLOOR_ULP = 2.0
"""The rounding scale's floor, in ULP of the leaf's root mean square."""

LIMIT, HALF_LIMIT = 2.0, 3.0
"""The largest ratio that passes, and that of half types."""

FLOAT32_ERROR_IN_FLOAT64 = 2.0**-29 * math.sqrt(2)
"""Factor from a float32 run's error to a float64 one's: the ratio of ULPs, times √2, as the reference errs as well."""


@dataclasses.dataclass
class Errors:
    """Squared errors of one leaf, summed over the varied inputs.

    Attributes:
        file: of the file against the reference.
        eager: of eager against the reference.
        norm: of the reference itself.
        count: how many numbers were compared.
    """

    file: float = 0.0
    eager: float = 0.0
    norm: float = 0.0
    count: int = 0

    def add(self, file: torch.Tensor, reference: torch.Tensor, error: torch.Tensor) -> None:
        """Add one run: the file's values, the reference, and eager's error."""
        target = reference.double()
        self.file += float((file.double() - target).square().sum())
        self.eager += float(error.double().square().sum())
        self.norm += float(target.square().sum())
        self.count += target.numel()

    def merge(self, other: Errors) -> None:
        """Add the errors of another run."""
        self.file, self.eager = self.file + other.file, self.eager + other.eager
        self.norm, self.count = self.norm + other.norm, self.count + other.count

    def measures(self, dtype: torch.dtype, floor_ulp: float = FLOOR_ULP) -> tuple[float, float, float]:
        """Return the file's root mean square error, the rounding scale, and their ratio."""
        rmse, eager, norm = (math.sqrt(value / self.count) for value in (self.file, self.eager, self.norm))
        scale = max(eager, floor_ulp * torch.finfo(dtype).eps * norm)
        return rmse, scale, rmse / scale if scale else (0.0 if rmse == 0 else math.inf)


@dataclasses.dataclass(frozen=True)
class Settled:
    """One set of inputs, judged on the sides that were taken.

    Attributes:
        reference: the output's leaves in float64, on the file's side of each open decision.
        rounding: the error of the recorded function in its own precision, against float64 on its own side.
    """

    reference: tuple[torch.Tensor, ...]
    rounding: tuple[torch.Tensor, ...]


@dataclasses.dataclass(frozen=True)
class Measured:
    """The errors of one run.

    Attributes:
        errors: {position of a leaf: its errors}.
        flipped: whether eager decided something by value otherwise than the reference, so that its error holds a jump.
    """

    errors: dict[int, Errors]
    flipped: bool

    def merge_into(self, pooled: Mapping[int, Errors]) -> None:
        """Add the errors to those of other runs."""
        for i, error in self.errors.items():
            pooled[i].merge(error)

    def with_rounding(self, rounding: Mapping[int, torch.Tensor]) -> Measured:
        """Return the same with eager's error, or this rounding where it is larger."""
        squares = {i: float(error.double().square().sum()) for i, error in rounding.items()}
        errors = {i: dataclasses.replace(e, eager=max(e.eager, squares.get(i, 0.0))) for i, e in self.errors.items()}
        return Measured(errors, self.flipped)

    def exceeds(self, dtypes: Mapping[int, torch.dtype], limit: float | None) -> bool:
        """Tell whether this run alone would fail."""
        return any(
            e.count and e.measures(dtypes[i])[2] > largest_ratio(dtypes[i], limit) for i, e in self.errors.items()
        )


def measure(
    numeric: Sequence[int],
    results: Results,
    coarse: Outcome | None,
    settled: Settled | None = None,
) -> Measured:
    """Measure the errors of one run; values that eager cannot compute on varied inputs are left out.

    Args:
        numeric: positions of the float leaves.
        results: what eager, the reference and the file give.
        coarse: results of a float64 function in float32.
        settled: the reference on the file's side of open decisions. Where eager flipped, the rounding is that of the
            recorded function, so that no jump counts as rounding.
    """
    eager, reference, found = results
    flipped = not same_sides(eager, reference)
    errors = {i: Errors() for i in numeric}
    for i, total in errors.items():
        own, exact = eager.leaves[i], reference.leaves[i]
        if found[i].shape != own.shape or not (finite(exact) and finite(own)):
            continue
        error = own.double() - exact.double()
        if own.dtype == torch.float64:
            error = torch.zeros_like(exact)
            if coarse is not None:
                error = (coarse.leaves[i].double() - exact) * FLOAT32_ERROR_IN_FLOAT64
        if settled is not None:
            exact, error = settled.reference[i], settled.rounding[i] if flipped else error
        total.add(found[i], exact, error)
    return Measured(errors, flipped)


def largest_ratio(dtype: torch.dtype, limit: float | None) -> float:
    """Return the largest ratio that passes for a dtype."""
    return limit if limit is not None else HALF_LIMIT if dtype in REDUCED else LIMIT


def numeric_row(leaf: str, case: str, dtype: torch.dtype, errors: Errors, limit: float | None) -> Row:
    """Judge a float leaf by its pooled errors."""
    most = largest_ratio(dtype, limit)
    if not errors.count:
        # An empty tensor of the right shape.
        return Row(leaf, case, dtype_name(dtype), None, None, None, most, "pass")
    rmse, scale, ratio = errors.measures(dtype)
    status: Status = "pass" if ratio <= most else "fail"
    reason = "" if status == "pass" else f"the error is {ratio:.3g} times the rounding scale"
    return Row(leaf, case, dtype_name(dtype), ratio, rmse, scale, most, status, reason)


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
