"""One output leaf held against its reference, element by element, in units of each element's own rounding scale.

The ratio of an element is |value − reference| / scale, where the scale is the spread of that element over noisy runs
(`export.verdict.monte_carlo`) and the rounding of the reference to the leaf's dtype. A leaf passes if no element's
ratio exceeds the limit, and if the ratios' root mean square stays below half of it in every slice along the last axis,
and below three eighths in the whole leaf: many elements that are all a little off are no accident.

Roundings of regular numbers, such as equally spaced weights, are not random, and err alike in any implementation. So an
element's ratio is twice its distance from eager's own value where that is smaller; eager in turn is held against the
reference.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from export.graph.onnx_types import REDUCED, dtype_name
from export.verdict.sampled import Sampled

__all__ = ["LIMIT", "Comparison", "compare", "element_ratios"]

LIMIT = 8.0
"""The largest ratio of an element that passes. With 12 noisy runs a scale may be a factor of 2 too small."""

SLICE_SHARE, LEAF_SHARE = 1 / 2, 3 / 8
"""The largest root mean square of a slice's and a leaf's ratios, as shares of the limit."""

MIN_SLICE, MIN_LEAF = 8, 32
"""How many elements a slice and a leaf need for their root mean square to say something."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What came of one leaf.

    Attributes:
        ratio: the largest ratio of an element; None where nothing is compared by ratio.
        error: that element's difference from the reference.
        scale: that element's rounding scale.
        problem: what is wrong, empty if nothing is.
        zero_signs: how many zeros have the other sign than eager's; ONNX Runtime drops the sign in places, which shows
            in other values only where something is divided by them.
    """

    ratio: float | None = None
    error: float | None = None
    scale: float | None = None
    problem: str = ""
    zero_signs: int = 0


def compare(
    own: Tensor, eager: Tensor, sampled: Sampled, limit: float = LIMIT, *, beside_eager: bool = False
) -> Comparison:
    """Compare a leaf.

    Args:
        own: the leaf that is judged.
        eager: the same of the function in its own precision: says shape, dtype, and where that precision overflows.
        sampled: the reference with its scales.
        limit: the largest ratio that passes.
        beside_eager: whether an element may be close to eager's instead of the reference.
    """
    if own.shape != eager.shape:
        return Comparison(problem=f"shape {tuple(own.shape)}, expected {tuple(eager.shape)}")
    if own.dtype != eager.dtype:
        return Comparison(problem=f"dtype {dtype_name(own.dtype)}, expected {dtype_name(eager.dtype)}")
    if not own.is_floating_point():
        count = int((~_may_be(own, sampled)).sum())
        if count:
            return Comparison(problem=f"{count} of {own.numel()} values differ")
        pick, exact = sampled.pick, sampled.reference.to(own.dtype)
        if pick is None or not pick.moved_too_often(own, eager):
            return Comparison()
        return Comparison(problem=pick.moved_too_often(own, exact))
    ratios, scale = element_ratios(own, sampled, own.dtype, eager)
    if beside_eager:
        beside = 2 * (own.double() - eager.double()).abs() / scale
        ratios = torch.where(ratios.isfinite() & (beside < ratios), beside, ratios)
    if not ratios.numel():
        return Comparison()
    place = int(ratios.argmax())
    error = (own.double() - sampled.reference).abs().flatten()[place]
    if ratios.flatten()[place] == 0:
        error = error.nan_to_num(0.0)  # of two NaN or infinities that agree
    signs = int(((own == 0) & (eager == 0) & (own.signbit() != eager.signbit())).sum())
    found = Comparison(float(ratios.flatten()[place]), float(error), float(scale.flatten()[place]), zero_signs=signs)
    return dataclasses.replace(found, problem=_problem(own, eager, sampled, ratios, limit, place))


def _may_be(own: Tensor, sampled: Sampled) -> Tensor:
    """Tell for each integer or boolean whether it is the reference, or what rounding may make of it."""
    exact = sampled.reference.to(own.dtype)
    if sampled.pick is not None:
        return (own == exact) | sampled.pick.may_be(own, exact)
    return (own == exact) | ((own.double() - exact.double()).abs() <= sampled.scale)


def element_ratios(
    value: Tensor, sampled: Sampled, dtype: torch.dtype, eager: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the ratio of every element, infinite where a difference cannot be rounding, and its scale.

    Args:
        value: the values that are judged.
        sampled: the reference with its scales.
        dtype: what the values are rounded to.
        eager: the function's own values, which tell where its precision overflows on the way.
    """
    value, exact = value.double(), sampled.reference
    rounded = exact.to(dtype).double()
    expected = rounded
    if eager is not None:
        expected = torch.where(~eager.isfinite() & rounded.isfinite(), eager.double(), rounded)
    scale = sampled.scale + torch.nan_to_num((rounded - exact).abs(), nan=0.0, posinf=0.0)
    equal = (value == expected) | (value.isnan() & expected.isnan())
    if (
        dtype.is_floating_point and dtype != torch.float16
    ):  # kernels may flush what is smaller than that to 0; half types on a CPU never do
        equal |= (value - exact).abs() < torch.finfo(dtype).smallest_normal
    ratio = (value - exact).abs() / scale
    # Where eager overflows in a half type, a file that computes wider may give what the reference gives.
    finite = expected.isfinite() | (rounded.isfinite() if dtype in REDUCED else False)
    ratio = torch.where(value.isfinite() & finite & (scale > 0), ratio, math.inf)
    return torch.where(equal, 0.0, ratio), scale


def _problem(own: Tensor, eager: Tensor, sampled: Sampled, ratios: Tensor, limit: float, place: int) -> str:
    where = _index(place, own.shape)
    if not bool(ratios.isfinite().all()):
        there = own.flatten()[place]
        odd = int((~own.isfinite() & ratios.isinf()).sum())
        if odd:
            return f"{odd} of {own.numel()} values are NaN or inf where eager's are not, the first at {where}"
        if not bool(eager.flatten()[place].isfinite()):
            return f"{float(there):.6g} at {where}, where eager gives {float(eager.flatten()[place])}"
        exact = float(sampled.reference.flatten()[place])
        return f"{float(there):.9g} at {where}, expected {exact:.9g}, which no rounding changes"
    worst = float(ratios.max())
    if worst > limit:
        return f"the error is {worst:.3g} times the rounding scale at {where}"
    if ratios.dim() and ratios.shape[-1] >= MIN_SLICE and ratios.numel() > ratios.shape[-1]:
        slices = ratios.square().mean(-1).sqrt()
        if float(slices.max()) > SLICE_SHARE * limit:
            at = _index(int(slices.argmax()), slices.shape)
            return f"the errors are {float(slices.max()):.3g} times the rounding scale on average in slice {at}"
    if ratios.numel() >= MIN_LEAF:
        mean = float(ratios.square().mean().sqrt())
        if mean > LEAF_SHARE * limit:
            return f"the errors are {mean:.3g} times the rounding scale on average"
    return ""


def _index(place: int, shape: torch.Size) -> str:
    index = []
    for size in reversed(shape):
        place, rest = divmod(place, max(size, 1))
        index.append(rest)
    return str(tuple(reversed(index)))
