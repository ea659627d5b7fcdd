"""Gradients of a batch's outputs with respect to each input and to the tagged streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pure.errors import ShapeError, UnsupportedError
from pure.flow.activations.residual_steps import plain
from pure.flow.shared.input_checks import FIX_NAN, finite_values, purely
from pure.flow.shared.tracked_leaves import tracked
from pure.tags import Tagged, observe, substitute

__all__ = ["INPUT", "Gradients", "input_gradients"]

INPUT = "(input)"

Gradients = dict[str, Tensor]
"""{path: (directions, inputs, width)}, float64."""


def input_gradients(run: tuple[Callable[..., Any], tuple[Any, ...]], x: Tensor, directions: Tensor | None) -> Gradients:
    """Return the gradients of the outputs w.r.t. the input and every tagged stream.

    A stream that the outputs do not depend on, or that has not the inputs on axis 0, is left out.

    Args:
        run: the function, and what it takes before x.
        x: (inputs, …).
        directions: of the shape of one output, or stacked; None for one value an input.

    Raises:
        ShapeError: outputs that have not the inputs on axis 0, or directions that do not fit.
        UnsupportedError: not pure, NaN, or nothing to differentiate with respect to.
    """
    fn, before = run
    finite_values(before, "params")
    given = tracked(x)

    def reached(tagged: Tagged) -> Any:
        value = plain(tagged)
        return value if value.requires_grad else tracked(value)

    with torch.enable_grad(), purely("correlation", params=before, x=x):
        thawed = tracked(before)
        out, seen = observe(substitute(fn, reached, "stream"), "stream")(*thawed, given)
    if not isinstance(out, Tensor) or out.ndim < 1 or len(out) != len(x):
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ShapeError(f"correlation: the function returned {found} for {len(x)} inputs: expected them on axis 0")
    if not torch.isfinite(out.detach()).all():
        raise UnsupportedError(f"correlation: the outputs hold NaN or infinity: {FIX_NAN}")
    named = [(INPUT, given), *((t.path, t.value) for t in seen if t.value.ndim and len(t.value) == len(x))]
    targets = {path: value for path, value in named if value.requires_grad}
    kept: dict[str, list[Tensor]] = {}
    for direction in _directions(out, directions) if out.requires_grad else ():
        cotangent = direction.expand_as(out)
        values = list(targets.values())
        by_value = torch.autograd.grad(out, values, cotangent, retain_graph=True, allow_unused=True)
        for path, gradient in zip(targets, by_value, strict=True):
            if gradient is not None:
                kept.setdefault(path, []).append(gradient.double().reshape(len(x), -1))
    if not kept:
        raise UnsupportedError("correlation of outputs that depend on neither the input nor a tagged stream")
    return {path: torch.stack(rows) for path, rows in kept.items()}


def _directions(out: Tensor, directions: Tensor | None) -> Tensor:
    """Return the directions on axis 0."""
    one = out.shape[1:]
    if directions is None:
        if one.numel() != 1:
            raise ShapeError(
                f"correlation: {one.numel()} output values an input, {tuple(one)}: give directions of that shape, or "
                "return one value an input"
            )
        return torch.ones(1, *one, dtype=out.dtype, device=out.device)
    if directions.shape not in (one, torch.Size([*directions.shape[:1], *one])) or not directions.numel():
        raise ShapeError(
            f"correlation directions {tuple(directions.shape)}: expected {tuple(one)}, or several stacked on axis 0"
        )
    return directions.to(out).reshape(-1, *one)
