"""Correlation of gradients at different inputs, by depth and along a line: gradient shattering."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError, UnsupportedError
from pure.flow.jacobian.autocorrelation import Autocorrelation, averaged, series
from pure.flow.jacobian.input_gradients import INPUT, Gradients, input_gradients
from pure.flow.shared.estimate import Estimate, estimate
from pure.flow.shared.input_checks import check_outermost, finite_values
from pure.flow.shared.over_ranks import Whole, over_ranks
from pure.flow.shared.result import PlainData, Readings, finite_or_none
from pure.flow.shared.text_table import table
from pure.spmd.process_group import Group

__all__ = ["Correlation", "GradientCorrelation", "correlation"]

NORMAL = 1.959963984540054


@dataclass(frozen=True, eq=False)
class GradientCorrelation(PlainData):
    """The cosines between the gradients with respect to one value at different inputs.

    Attributes:
        path: of the stream's tag, or "(input)".
        depth: 0 for the input, then 1, 2, … for the streams.
        width: how many numbers one input's gradient has.
        matrix: (inputs, inputs), the cosines, averaged over draws and directions; float64, NaN beside a gradient of 0.
        draw_means: (draws,), each draw's mean cosine over the pairs of different inputs; float64.
        mean: over the pairs, with its 95% interval: over draws Student's t; of one draw Fisher's, see `correlation`.
        chance: half-width of the 95% band around 0 in which `mean` lies if the gradients are unrelated (white).
        excess: width times the mean squared cosine over the pairs: 1 if the gradients are unrelated, whatever the
            width, and equal to the width if they are parallel.
    """

    path: str
    depth: int
    width: int
    matrix: Tensor
    draw_means: Tensor
    mean: Estimate
    chance: float
    excess: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON; None stands where a number does not exist."""
        return dict(finite_or_none(super().to_dict()))


@dataclass(frozen=True, eq=False)
class Correlation(Readings[str, GradientCorrelation]):
    """Gradient correlation by depth. As a mapping: {path of the stream's tag, or "(input)": its cosines}.

    Attributes:
        by_path: {path: cosines}, the input first, then the streams by depth.
        inputs: how many inputs were compared.
        draws: how many draws of the parameters; 1 where the function is fixed.
        autocorrelation: of the gradient along the inputs as a line; None if not asked.
    """

    by_path: dict[str, GradientCorrelation]
    inputs: int
    draws: int
    autocorrelation: Autocorrelation | None

    @property
    def _readings(self) -> Mapping[str, GradientCorrelation]:
        return self.by_path

    def __repr__(self) -> str:
        first = next(iter(self.by_path.values()))
        return f"Correlation({self.inputs} inputs, {self.draws} draws, w.r.t. {first.path}: {first.mean})"

    def table(self) -> str:
        """Return a plain text table."""
        header = ["gradient w.r.t.", "depth", "width", "mean cosine", "95% low", "high", "chance ±", "excess"]
        rows: list[list[str | int | float]] = [
            [c.path, c.depth, c.width, c.mean.value, c.mean.low, c.mean.high, c.chance, c.excess]
            for c in self.by_path.values()
        ]
        return table(header, rows)


def correlation(
    fn: Callable[..., Any],
    x: Tensor,
    *,
    directions: Tensor | None = None,
    draws: Iterable[Any] | None = None,
    lags: int | None = None,
    group: Group = None,
) -> Correlation:
    """Return the cosines between the gradients of a function at different inputs.

    Gradients are taken w.r.t. the input and every tagged stream, from one backward pass a draw and direction. They are
    those of the sum of the outputs over the inputs: the gradient of each output w.r.t. its own input, as long as one
    input's output does not depend on the others (batch statistics would make it so).

    What is independent is a draw of the weights, not a pair of inputs. Of several draws, the interval is Student's over
    the draws. Of one draw it is Fisher's for a single cosine at this width, however many pairs are averaged, and says
    what the width alone leaves open: another draw of a deep network's weights may lie outside it.

    Args:
        fn: `fn(x)`, the WHOLE batch's outputs (inputs, …); with `draws` it is `fn(params, x)`.
        x: (inputs, …), at least two.
        directions: what to multiply the outputs by, of the shape of one input's output, or several stacked on axis 0,
            over whose cosines the mean is taken. Not needed where there is one output value an input.
        draws: parameters of independent draws, any iterable of trees; one draw is held at a time.
        lags: where x lies along a line in equal steps, as far as which lag to give the gradient's autocorrelation.
        group: ranks that each hold a part of the inputs, and call this together: a process group or "world"; see
            `pure.spmd`. Every rank gets the result of all inputs.
            The inputs' gradients are gathered. Draws are to be the same on all ranks.

    Raises:
        ShapeError: outputs without the inputs on axis 0, or directions that do not fit.
        ArgumentError: NaN in the inputs, fewer than two, no draws, or lags beyond the inputs.
        UnsupportedError: the function is not pure, gives NaN, or depends on neither input nor streams.
        GroupError: a group without a process group.
        RanksDifferError: what all ranks share differs between them.
        PeerFailedError: another rank failed.

    Source: Balduzzi et al. 2017 (1702.08591), section 2, figures 1 to 3.

    Example:
        >>> found = correlation(lambda x: x.square().sum(1), torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]))
        >>> found["(input)"].matrix.round(decimals=3).tolist()
        [[1.0, 0.0, 0.6], [0.0, 1.0, 0.8], [0.6, 0.8, 1.0]]
        >>> round(found["(input)"].mean.value, 4)
        0.4667
    """
    check_outermost("correlation")
    with over_ranks("correlation", group) as whole:
        return _correlations(fn, x, directions, draws, lags, whole)


def _correlations(
    fn: Callable[..., Any],
    x: Tensor,
    directions: Tensor | None,
    draws: Iterable[Any] | None,
    lags: int | None,
    whole: Whole,
) -> Correlation:
    inputs = int(sum(whole.numbers(len(x), "inputs"))) if isinstance(x, Tensor) and x.ndim else 0
    if not isinstance(x, Tensor) or x.ndim < 1 or inputs < 2:
        given = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ArgumentError(f"correlation of inputs {given}: expected a tensor of at least two, on axis 0")
    finite_values(x, "x")
    if lags is not None and not 0 < lags < inputs:
        raise ArgumentError(f"correlation lags={lags} of {inputs} inputs: expected 1 to {inputs - 1}")
    matrices: dict[str, list[Tensor]] = {}
    widths: dict[str, int] = {}
    along: list[Tensor] = []
    for run in _runs(fn, draws):
        whole.shared([leaf for leaf in tree.leaves(run[1]) if isinstance(leaf, Tensor)], "a draw of parameters")
        found = input_gradients(run, x, directions)
        found = {path: whole.rows(gradients, path, 1) for path, gradients in found.items()}
        for path, gradients in found.items():
            widths[path] = gradients.shape[2]
            matrices.setdefault(path, []).append(_cosines(gradients))
        if lags is not None:
            along.append(series(_by_input(found), lags))
    if not matrices:
        raise ArgumentError("correlation of no draws: give at least one tree of parameters, or leave draws out")
    values = {
        path: _correlation(path, depth, widths[path], torch.stack(cosines))
        for depth, (path, cosines) in enumerate(matrices.items(), start=0 if INPUT in matrices else 1)
    }
    count = max(len(cosines) for cosines in matrices.values())
    line = averaged(torch.stack(along), inputs, widths[INPUT]) if along else None
    return Correlation(values, inputs, count, line)


def _runs(fn: Callable[..., Any], draws: Iterable[Any] | None) -> Iterator[tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Return the function and what it takes before x, once for each draw."""
    if draws is None:
        yield fn, ()
    else:
        for params in draws:
            yield fn, (params,)


def _by_input(found: Gradients) -> Tensor:
    if INPUT not in found:
        raise UnsupportedError("correlation lags of an input without a gradient: give floating-point inputs")
    return found[INPUT]


def _cosines(gradients: Tensor) -> Tensor:
    """Return (2, inputs, inputs): the cosines and their squares, averaged over the directions."""
    units = gradients / torch.linalg.vector_norm(gradients, dim=2, keepdim=True)
    cosines = units @ units.mT
    return torch.stack([cosines.mean(0), cosines.square().mean(0)])


def _correlation(path: str, depth: int, width: int, found: Tensor) -> GradientCorrelation:
    """Average the (draws, 2, inputs, inputs) cosines and squares over pairs and draws."""
    draws, _, inputs, _ = found.shape
    upper = torch.ones(inputs, inputs, dtype=torch.bool, device=found.device).triu(1)
    pairs = found[:, :, upper]
    means = pairs.nanmean(2)
    known = means[:, 0][~means[:, 0].isnan()]
    chance = NORMAL / math.sqrt(width * pairs.shape[2] * draws)
    mean = estimate(known) if len(known) > 1 else _fisher(float(known.mean()), width)
    excess = width * float(means[:, 1].nanmean())
    return GradientCorrelation(path, depth, width, found[:, 0].nanmean(0), means[:, 0], mean, chance, excess)


def _fisher(cosine: float, width: int) -> Estimate:
    """Return Fisher's interval for a cosine about 0 of `width` independent pairs of numbers.

    The cosine of vectors of known mean 0 spreads as a correlation of one number more: the variance of its inverse
    hyperbolic tangent is near 1 / (width − 2).
    """
    if width <= 2 or math.isnan(cosine):
        return Estimate(cosine, -1.0, 1.0, math.nan, 1)
    centre = math.atanh(max(-1 + 1e-15, min(1 - 1e-15, cosine)))
    reach = NORMAL / math.sqrt(width - 2)
    error = (1 - cosine**2) / math.sqrt(width - 2)
    return Estimate(cosine, math.tanh(centre - reach), math.tanh(centre + reach), error, 1)
