"""Exact moments of a stack's Jacobian over the draw of its weights, at its own finite widths."""

from __future__ import annotations

from collections.abc import Sequence

from pure.flow.theory.laws.path_lengths import path_energies
from pure.flow.theory.stack import Gate, Layer, Skip, Stack

__all__ = ["Traces", "energies", "inexact", "not_gaussian", "second_moment", "traces"]

Traces = tuple[float, float]
"""E (tr M)² and E tr M² of M = J Jᵀ."""


def inexact(stack: Stack) -> str:
    """Return why the second moment of this stack is no exact law; empty if it is one."""
    for part in stack:
        if isinstance(part, Gate):
            return "gates depend on the input, so the law is a mean-field one"
        if isinstance(part, Skip) and part.norm:
            return "the norm's derivative depends on the stream's length, which settles at infinite width only"
        if isinstance(part, Skip) and part.body[-1].relu:
            return "the branch ends in a ReLU, so that it has a mean; for an isotropic u that vanishes with the width"
    return ""


def not_gaussian(stack: Stack) -> str:
    """Return which weights are not Gaussian, which moments above the second need; empty if all are."""
    layers = [layer for part in stack for layer in (part.body if isinstance(part, Skip) else (part,))]
    for layer in layers:
        if isinstance(layer, Gate) or layer.weight.kind != "gaussian":
            return "it needs Gaussian weights in every layer"
    return ""


def second_moment(stack: Stack) -> float:
    """Return E‖Ju‖² of a stack for which `inexact` has nothing to say."""
    value = 1.0
    for part in stack:
        assert not isinstance(part, Gate)
        value *= part.gain if isinstance(part, Layer) else part.carry**2 + part.gain
    return value


def energies(stack: Stack) -> list[float]:
    """Return E‖J_k u‖² for every number k of branches: the coefficients of Π (carry² + gain · z)."""
    factor = second_moment(tuple(part for part in stack if isinstance(part, Layer)))
    skips = [part for part in stack if isinstance(part, Skip)]
    found = path_energies([skip.gain for skip in skips], [skip.carry**2 for skip in skips])
    return [factor * energy for energy in found]


def traces(stack: Stack, width: int) -> Traces:
    """Return E (tr JᵀJ)² and E tr (JᵀJ)², exact for Gaussian weights, from a linear recursion over the layers.

    They give E‖Ju‖⁴ = (E (tr JᵀJ)² + 2 E tr (JᵀJ)²)/(n (n + 2)) for an isotropic u, and the spectrum's m₂.

    Args:
        stack: one for which `inexact` and `not_gaussian` have nothing to say.
        width: n, of the input.

    Source: derived here by Wick's formula for one Gaussian layer at a time; gates open with probability ½ independently
        of a row's even moments.
    """
    found = (float(width) ** 2, float(width))
    for part in stack:
        assert not isinstance(part, Gate)
        found = _through_layer(part, found) if isinstance(part, Layer) else _through_skip(part, found)
    return found


def _through_layer(layer: Layer, before: Traces) -> Traces:
    """M → D W M Wᵀ D: rows meet themselves with the open share p, each other with p²."""
    squared, trace = before
    n, v = layer.outputs, layer.weight.variance
    share = 0.5 if layer.relu else 1.0
    same = share * n * v**2 * (squared + 2 * trace)
    others = share**2 * n * (n - 1) * v**2
    return same + others * squared, same + others * trace


def _through_layers(layers: Sequence[Layer], before: Traces) -> Traces:
    for layer in layers:
        before = _through_layer(layer, before)
    return before


def _through_skip(skip: Skip, before: Traces) -> Traces:
    """M → (γ + X) M (γ + X)ᵀ with X = V H, V Gaussian of variance v: only even powers of V remain."""
    squared, trace = before
    last = skip.body[-1]
    n, v = last.outputs, last.weight.variance * (skip.scale * skip.inner) ** 2
    carry = skip.carry**2
    share = v
    for layer in skip.body[:-1]:
        share *= layer.gain
    inner_squared, inner_trace = _through_layers(skip.body[:-1], before)
    new_squared = (
        carry**2 * squared
        + carry * share * (4 * trace + 2 * n * squared)
        + v**2 * (n**2 * inner_squared + 2 * n * inner_trace)
    )
    new_trace = (
        carry**2 * trace
        + carry * share * (2 * (n + 1) * trace + 2 * squared)
        + v**2 * n * (inner_squared + (n + 1) * inner_trace)
    )
    return new_squared, new_trace
