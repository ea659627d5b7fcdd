"""One pass through a stack at infinite width: the stream's moments, and gradients at one input and at two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pure.flow.theory.laws.correlation import arc_cosine_0, arc_cosine_1
from pure.flow.theory.laws.highway import highway_step
from pure.flow.theory.stack import Gate, Layer, Skip, Stack

__all__ = ["Flow", "mean_field"]


@dataclass(frozen=True)
class Flow:
    """What is known of a feature x of the stream, of the same feature x′ for another input, and of the Jacobians.

    Attributes:
        mean: E x = E x′.
        square: E x² = E x′².
        product: E x x′; NaN behind a highway layer, where it is not followed.
        jacobian: E‖Ju‖² for an isotropic unit u.
        cross_jacobian: E⟨J(x)u, J(x′)u⟩.
        passed: how many random layers a squared gradient has passed on average, a layer of the stem or a branch.
    """

    mean: float
    square: float
    product: float
    jacobian: float = 1.0
    cross_jacobian: float = 1.0
    passed: float = 0.0

    @property
    def cosine(self) -> float:
        """Correlation of the gradients at the two inputs."""
        return self.cross_jacobian / self.jacobian


def mean_field(stack: Stack, mean_square: float, angle: float) -> Flow:
    """Return the state behind the stack.

    Args:
        stack: any.
        mean_square: of the two inputs' features, whose mean is 0.
        angle: between the two inputs, in radians.
    """
    flow = Flow(0.0, mean_square, mean_square * math.cos(angle))
    for part in stack:
        if isinstance(part, Layer):
            flow = _layer(part, flow)
        elif isinstance(part, Skip):
            flow = _skip(part, flow)
        else:
            flow = _gate(part, flow)
    return flow


def _layer(layer: Layer, flow: Flow) -> Flow:
    fan = layer.inputs * layer.weight.variance
    square, product = fan * flow.square + layer.bias.variance, fan * flow.product + layer.bias.variance
    gain, cross_jacobian, mean = layer.gain, layer.gain, 0.0
    if layer.relu:
        angle = math.acos(max(-1.0, min(1.0, product / square))) if square else 0.0
        cross_jacobian *= arc_cosine_0(angle)
        mean = math.sqrt(square / (2 * math.pi))
        square, product = square / 2, square / 2 * arc_cosine_1(angle)
    return Flow(mean, square, product, flow.jacobian * gain, flow.cross_jacobian * cross_jacobian, flow.passed + 1)


def _body(layers: Sequence[Layer], flow: Flow) -> Flow:
    for layer in layers:
        flow = _layer(layer, flow)
    return flow


def _skip(skip: Skip, flow: Flow) -> Flow:
    mean, square, product = flow.mean, flow.square, flow.product
    if skip.norm:  # takes its input's length off, and with it a constant in front
        off = mean**2 if skip.norm.centred else 0.0
        slope = 1 / (square - off + skip.norm.eps / skip.inner**2)
        square, product = (square - off) * slope, (product - off) * slope
    else:
        slope = skip.inner**2
        square, product = square * slope, product * slope
    branch = _body(skip.body, Flow(0.0, square, product, slope, slope))
    carry, scale = skip.carry, skip.scale
    cross = 2 * carry * scale * flow.mean * branch.mean
    kept, added = carry**2, scale**2 * branch.jacobian
    return Flow(
        carry * flow.mean + scale * branch.mean,
        carry**2 * flow.square + scale**2 * branch.square + cross,
        carry**2 * flow.product + scale**2 * branch.product + cross,
        flow.jacobian * (kept + added),
        flow.cross_jacobian * (carry**2 + scale**2 * branch.cross_jacobian),
        flow.passed + (added / (kept + added) if added else 0.0),
    )


def _gate(gate: Gate, flow: Flow) -> Flow:
    step = highway_step(
        flow.mean,
        flow.square,
        gate.transform.inputs,
        gate_bias=gate.gate.bias.mean,
        gate_variance=gate.gate.weight.variance,
        gate_noise=gate.gate.bias.variance,
        variance=gate.transform.weight.variance,
        noise=gate.transform.bias.variance,
    )
    return replace(
        flow,
        mean=step.mean,
        square=step.mean_square,
        product=math.nan,
        jacobian=flow.jacobian * step.total,
        cross_jacobian=math.nan,
        passed=flow.passed + 1 - step.carry / step.total,
    )
