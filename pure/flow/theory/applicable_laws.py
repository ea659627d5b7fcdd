"""`predict`: the laws that hold for a block as initialised, their numbers, and why others do not hold."""

from __future__ import annotations

import math

from pure.block import Block
from pure.errors import ArgumentError, UnsupportedError
from pure.flow.theory.exact_moments import energies, inexact, not_gaussian, second_moment, traces
from pure.flow.theory.laws.mean_field import Flow, mean_field
from pure.flow.theory.laws.spectrum import plain_spectrum_ratio, residual_spectrum_ratio
from pure.flow.theory.prediction import LAWS, Prediction, Predictions
from pure.flow.theory.stack import Gate, Layer, Skip, Stack, read_stack

__all__ = ["predict"]

WIDTH_PER_LAYER, WIDTH_PER_SQUARED_LAYER = 80, 16
"""Limit laws are given where the narrowest width is at least 80 D and 16 D², D the number of random layers that a
squared gradient passes on average: finite width then moves them by less than about 3%."""


def predict(block: Block, *, angle: float = math.pi / 2, mean_square: float = 1.0) -> Predictions:
    """Return what theory says about the gradients of `block` over draws of its initial parameters.

    The block is read: its layers, skips, constants and initialisers, whose exact variances enter. A law is given only
    where its conditions hold; for the others there is a reason. Evaluation mode is meant.

    Args:
        block: any block. Known are `Linear` with ReLU or without, `Residual` and `Weighted` around them, with a norm in
            front or without, `Highway`, and chains and repeats of those.
        angle: between two inputs, for the correlation of their gradients, in radians, 0 to π.
        mean_square: of the features of the inputs.

    Raises:
        ArgumentError: no block, an angle outside 0 to π, or a mean square that is not positive.

    Example:
        >>> from pure import nets
        >>> found = predict(nets.residual_mlp(64, 64, 8, scale=0.5))
        >>> found["E‖Ju‖²"].kind, math.isclose(found["E‖Ju‖²"].predicted, (1 + 0.25 / 18) ** 8)
        ('exact', True)
        >>> found.refused["A"]
        'there is no plain ReLU layer'
    """
    if not isinstance(block, Block):
        raise ArgumentError(f"predict of {type(block).__name__}: expected a Block")
    if not 0 <= angle <= math.pi or not 0 < mean_square < math.inf:
        raise ArgumentError(f"predict angle={angle}, mean_square={mean_square}: expected 0 to π, and a positive number")
    try:
        stack = read_stack(block)
    except UnsupportedError as error:
        return Predictions({}, dict.fromkeys(LAWS, error.message), angle, mean_square, 0)
    found: list[Prediction] = []
    refused = _absent(stack)
    flow = mean_field(stack, mean_square, angle)
    narrow = _narrow(stack, flow)
    _second(stack, flow, mean_square, narrow, found, refused)
    _higher(stack, found)
    _paths(stack, found, refused)
    _spectrum(stack, narrow, found, refused)
    _correlation(flow, angle, narrow, found, refused)
    used = {letter for prediction in found for letter in prediction.law}
    refused = {law: why for law, why in sorted(refused.items()) if law not in used}
    return Predictions({p.quantity: p for p in found}, refused, angle, mean_square, _width(stack))


def _width(stack: Stack) -> int:
    first = stack[0]
    layer = first if isinstance(first, Layer) else first.body[0] if isinstance(first, Skip) else first.transform
    return layer.inputs


def _narrow(stack: Stack, flow: Flow) -> str:
    """Return why a law of infinite width is not given for these sizes; empty if it is."""
    layers = [
        layer
        for part in stack
        for layer in (part.body if isinstance(part, Skip) else (part.transform,) if isinstance(part, Gate) else (part,))
    ]
    narrowest = min(layer.inputs for layer in layers)  # the last output's size changes no mean
    needed = math.ceil(max(WIDTH_PER_LAYER * flow.passed, WIDTH_PER_SQUARED_LAYER * flow.passed**2))
    if narrowest >= needed:
        return ""
    return (
        f"a law of infinite width: a squared gradient passes {flow.passed:.2g} random layers on average, for which it "
        f"is given from width {needed} on, and the narrowest is {narrowest}"
    )


def _absent(stack: Stack) -> dict[str, str]:
    """Return why laws do not hold, going by which parts there are."""
    refused = {"G": "an idealisation (independent gates, exactly normalised branches): it holds for no network"}
    skips = [part for part in stack if isinstance(part, Skip)]
    if not any(isinstance(part, Layer) and part.relu for part in stack):
        refused["A"] = "there is no plain ReLU layer"
    if not skips:
        refused["B"] = refused["C"] = refused["D"] = "there is no residual block"
    if not any(skip.norm for skip in skips):
        refused["H"] = "there is no norm in front of a branch"
    if not any(isinstance(part, Gate) for part in stack) and all(skip.carry == 1.0 for skip in skips):
        refused["I"] = "there is no highway layer, and no carry but 1"
    return refused


def _letters(stack: Stack) -> str:
    letters = set()
    for part in stack:
        if isinstance(part, Layer):
            letters |= {"A"} if part.relu else set()
        elif isinstance(part, Gate):
            letters.add("I")
        else:
            letters.add("H" if part.norm else "B" if part.carry == 1.0 else "I")
    return "".join(sorted(letters)) or "E"


def _second(
    stack: Stack, flow: Flow, square: float, narrow: str, found: list[Prediction], refused: dict[str, str]
) -> None:
    why = inexact(stack)
    letters = _letters(stack)
    if not why:
        condition = "independent weights, symmetric around 0"
        found.append(Prediction(letters, "E‖Ju‖²", second_moment(stack), "exact", condition, "second"))
    elif not narrow:
        found.append(Prediction(letters, "E‖Ju‖²", flow.jacobian, "limit", f"infinite width: {why}", "second"))
    else:
        refused.update(dict.fromkeys(letters, narrow))
    if not why or all(
        not isinstance(part, Gate) and not (isinstance(part, Skip) and part.body[-1].relu) for part in stack
    ):
        condition = "as above" if not why else "independent weights, symmetric around 0; the norm's eps ≪ mean square"
        found.append(Prediction(letters, "E mean y² / mean x²", flow.square / square, "exact", condition, "forward"))
    elif not narrow:
        condition = "infinite width"
        found.append(Prediction(letters, "E mean y² / mean x²", flow.square / square, "limit", condition, "forward"))


def _higher(stack: Stack, found: list[Prediction]) -> None:
    if inexact(stack) or not_gaussian(stack):
        return
    width = _width(stack)
    squared, trace = traces(stack, width)
    fourth = (squared + 2 * trace) / (width * (width + 2))
    letters = _letters(stack)
    found.append(Prediction(letters, "E‖Ju‖⁴", fourth, "exact", "Gaussian weights", "fourth"))
    letter = "D" if any(isinstance(part, Skip) for part in stack) else "E"
    found.append(Prediction(letter, "E tr (JᵀJ)² / n", trace / width, "exact", "Gaussian weights", "trace"))


def _paths(stack: Stack, found: list[Prediction], refused: dict[str, str]) -> None:
    if not any(isinstance(part, Skip) for part in stack):
        return
    if why := inexact(stack):
        refused["C"] = why
        return
    total = second_moment(stack)
    for order, energy in enumerate(energies(stack)):
        if energy < 1e-3 * total:
            continue
        condition = "independent weights, symmetric around 0; J_k passes exactly k branches"
        found.append(Prediction("C", f"E‖J_k u‖², k = {order}", energy, "exact", condition, "path", order))


def _spectrum(stack: Stack, narrow: str, found: list[Prediction], refused: dict[str, str]) -> None:
    """The ratio m₂/m₁² at infinite width; where every weight is Gaussian, `_higher` has given the exact moments."""
    layers = [part for part in stack if isinstance(part, Layer)]
    skips = [part for part in stack if isinstance(part, Skip)]
    letter = "D" if skips else "E"
    if len(layers) + len(skips) < len(stack) or (layers and skips):
        refused.setdefault("D", "the spectrum of this mix of parts has no formula here")
        refused.setdefault("E", "the spectrum of this mix of parts has no formula here")
        return
    refused.setdefault("E" if skips else "D", "residual blocks follow law D" if skips else "there is no residual block")
    if narrow:
        refused[letter] = narrow
        return
    ratio = _residual_ratio(skips) if skips else _plain_ratio(layers)
    if ratio is None:
        form = "x + α V relu(U x), all of one shape" if skips else "square layers of one kind and He's gain"
        refused[letter] = f"it needs blocks {form}" if skips else f"it needs {form}"
        return
    found.append(Prediction(letter, "m₂/m₁² of JᵀJ", ratio, "limit", "infinite width, free layers", "ratio"))


def _residual_ratio(skips: list[Skip]) -> float | None:
    aspects = set()
    for skip in skips:
        first, last = skip.body[0], skip.body[-1]
        if skip.norm or skip.carry != 1.0 or len(skip.body) != 2 or not first.relu or last.relu:
            return None
        if "orthogonal" in (first.weight.kind, last.weight.kind):
            return None
        aspects.add(last.outputs / last.inputs)
    if len(aspects) != 1:
        return None
    return residual_spectrum_ratio([skip.gain for skip in skips], aspects.pop())


def _plain_ratio(layers: list[Layer]) -> float | None:
    kinds = {(layer.relu, layer.weight.kind == "orthogonal") for layer in layers}
    if len(kinds) != 1 or any(layer.inputs != layer.outputs or not layer.gain for layer in layers):
        return None
    relu, orthogonal = kinds.pop()
    if orthogonal:
        return plain_spectrum_ratio(len(layers), "orthogonal relu") if relu else 1.0
    return plain_spectrum_ratio(len(layers), "gaussian relu" if relu else "gaussian linear")


def _correlation(flow: Flow, angle: float, narrow: str, found: list[Prediction], refused: dict[str, str]) -> None:
    if math.isnan(flow.cross_jacobian):
        refused["F"] = "the correlation is not followed through highway layers"
    elif narrow:
        refused["F"] = narrow
    else:
        condition = f"infinite width, inputs at {math.degrees(angle):.0f}°"
        found.append(Prediction("F", "E⟨J(x)u, J(y)u⟩ / E‖Ju‖²", flow.cosine, "limit", condition, "correlation"))
