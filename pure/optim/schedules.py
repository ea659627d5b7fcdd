"""Learning rates over time: pure functions of the step, which is a 0-d integer tensor, in float64.

Names and formulas are optax's, so that a schedule that was tuned there gives the same rates here. Whole numbers are
taken for the step as well: `cosine_decay_schedule(0.1, 100)(50)`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pure.errors import ArgumentError
from pure.optim.recipes import recorded_schedule

__all__ = [
    "Rate",
    "Schedule",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "exponential_decay",
    "join_schedules",
    "linear_onecycle_schedule",
    "linear_schedule",
    "piecewise_constant_schedule",
    "warmup_cosine_decay_schedule",
]

Schedule = Callable[[Tensor], Tensor | float]
Rate = float | Tensor | Schedule
"""A learning rate: a number, a 0-d tensor, or a function of the step."""


@recorded_schedule
def constant_schedule(value: float) -> Schedule:
    """Return the schedule that is `value` at each step."""
    return lambda step: _count(step) * 0 + value


@recorded_schedule
def linear_schedule(init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0) -> Schedule:
    """Return the schedule that goes from `init_value` to `end_value` in a straight line, and stays there.

    Args:
        init_value: at the first step, and up to `transition_begin`.
        end_value: from step `transition_begin + transition_steps` on.
        transition_steps: how many steps the way takes.
        transition_begin: the step at which it begins.

    Raises:
        ArgumentError: fewer than one transition step, or a negative begin.

    Example:
        >>> linear_schedule(0.0, 1.0, 4)(torch.tensor(1))
        tensor(0.2500, dtype=torch.float64)
    """
    _raise_unless_steps(transition_steps=transition_steps)
    _raise_unless_steps(0, transition_begin=transition_begin)

    def schedule(step: Tensor) -> Tensor:
        fraction = ((_count(step) - transition_begin) / transition_steps).clamp(0, 1)
        return init_value + (end_value - init_value) * fraction

    return schedule


@recorded_schedule
def exponential_decay(init_value: float, transition_steps: int, decay_rate: float) -> Schedule:
    """Return init_value · decay_rate^(step / transition_steps).

    Args:
        init_value: at step 0.
        transition_steps: in how many steps the rate falls to `decay_rate` of what it was.
        decay_rate: the factor, positive.

    Raises:
        ArgumentError: fewer than one transition step, or a factor that is not positive.
    """
    _raise_unless_steps(transition_steps=transition_steps)
    if not decay_rate > 0:
        raise ArgumentError(f"decay_rate={decay_rate}: expected a positive factor, such as 0.97")
    return lambda step: init_value * torch.exp(_count(step) / transition_steps * math.log(decay_rate))


@recorded_schedule
def cosine_decay_schedule(init_value: float, decay_steps: int, alpha: float = 0.0, exponent: float = 1.0) -> Schedule:
    """Return the schedule that falls from `init_value` along half a cosine, and stays at alpha · init_value.

    Args:
        init_value: at step 0.
        decay_steps: the step from which the rate stays.
        alpha: what is left at the end, as a part of `init_value`.
        exponent: of the cosine's fall.

    Raises:
        ArgumentError: fewer than one step.

    References:
        Loshchilov and Hutter 2016 (1608.03983), equation 5.
    """
    _raise_unless_steps(decay_steps=decay_steps)

    def schedule(step: Tensor) -> Tensor:
        fall = 0.5 * (1 + torch.cos(math.pi / decay_steps * _count(step).clamp(max=decay_steps)))
        return init_value * ((1 - alpha) * (fall if exponent == 1 else fall**exponent) + alpha)

    return schedule


@recorded_schedule
def warmup_cosine_decay_schedule(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    decay_steps: int,
    end_value: float = 0.0,
    exponent: float = 1.0,
) -> Schedule:
    """Return a straight rise to `peak_value`, then the fall along half a cosine to `end_value`.

    Args:
        init_value: at step 0.
        peak_value: at step `warmup_steps`.
        warmup_steps: how long the rise takes.
        decay_steps: the step from which the rate stays; the warm-up is part of it.
        end_value: the rate at the end.
        exponent: of the cosine's fall.

    Raises:
        ArgumentError: a warm-up that is not shorter than the whole.

    Example:
        >>> schedule = warmup_cosine_decay_schedule(0.0, 1.0, 10, 110)
        >>> [round(float(schedule(torch.tensor(step))), 3) for step in (0, 5, 10, 60, 110)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    _raise_unless_steps(0, warmup_steps=warmup_steps)
    if decay_steps <= warmup_steps:
        raise ArgumentError(f"decay_steps={decay_steps}: expected more than the warmup_steps={warmup_steps} in it")
    alpha = 0.0 if peak_value == 0 else end_value / peak_value
    fall = cosine_decay_schedule(peak_value, decay_steps - warmup_steps, alpha, exponent)
    if not warmup_steps:
        return fall
    return join_schedules([linear_schedule(init_value, peak_value, warmup_steps), fall], [warmup_steps])


@recorded_schedule
def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Return one cycle in straight lines: up to the peak, down to where it began, down to the end.

    Args:
        transition_steps: how long the cycle takes.
        peak_value: the highest rate.
        pct_start: the part of the cycle that rises, in (0, 1).
        pct_final: where in the cycle the last way down begins.
        div_factor: the peak, divided by the first rate.
        final_div_factor: the first rate, divided by the last.

    Raises:
        ArgumentError: fewer than one step, or parts that are not in order.

    References:
        Smith and Topin 2017 (1708.07120), section 3.
    """
    first = peak_value / div_factor
    marks = [0, int(pct_start * transition_steps), int(pct_final * transition_steps), transition_steps]
    return _interpolated(marks, [first, peak_value, first, first / final_div_factor], _straight)


@recorded_schedule
def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Return one cycle along cosines: up to the peak, then down to the end.

    `torch.optim.lr_scheduler.OneCycleLR` is the same with both marks one step earlier.

    Args:
        transition_steps: how long the cycle takes.
        peak_value: the highest rate.
        pct_start: the part of the cycle that rises, in (0, 1).
        div_factor: the peak, divided by the first rate.
        final_div_factor: the first rate, divided by the last.

    Raises:
        ArgumentError: fewer than one step, or a part outside (0, 1).

    References:
        Smith and Topin 2017 (1708.07120), section 3.
    """
    first = peak_value / div_factor
    marks = [0, int(pct_start * transition_steps), transition_steps]
    return _interpolated(marks, [first, peak_value, first / final_div_factor], _half_cosine)


@recorded_schedule
def piecewise_constant_schedule(init_value: float, boundaries_and_scales: Mapping[int, float]) -> Schedule:
    """Return a rate that is multiplied by a factor at each of some steps.

    Args:
        init_value: at step 0.
        boundaries_and_scales: from a step to the factor that holds from it on, on top of those before.

    Raises:
        ArgumentError: a negative factor.

    Example:
        >>> piecewise_constant_schedule(1.0, {30: 0.1, 60: 0.1})(torch.tensor(45))
        tensor(0.1000, dtype=torch.float64)
    """
    if any(scale < 0 for scale in boundaries_and_scales.values()):
        raise ArgumentError(f"boundaries_and_scales={dict(boundaries_and_scales)}: expected factors of at least 0")

    def schedule(step: Tensor) -> Tensor:
        count = _count(step)
        value = count * 0 + init_value
        for boundary, scale in sorted(boundaries_and_scales.items()):
            value = torch.where(count < boundary, value, value * scale)
        return value

    return schedule


@recorded_schedule
def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """Return schedules one after another; each counts its steps from 0.

    Args:
        schedules: in order.
        boundaries: the steps at which the second, third, … begins.

    Raises:
        ArgumentError: not one boundary less than schedules.
    """
    if len(boundaries) != len(schedules) - 1:
        raise ArgumentError(f"{len(schedules)} schedules, {len(boundaries)} boundaries: expected one boundary less")

    def schedule(step: Tensor) -> Tensor:
        count = _count(step)
        value = torch.as_tensor(schedules[0](count), dtype=torch.float64, device=count.device)
        for boundary, later in zip(boundaries, schedules[1:], strict=True):
            value = torch.where(count < boundary, value, later(count - boundary))
        return value

    return schedule


def at_step(rate: Rate, step: Tensor) -> Tensor | float:
    """Return a rate, of a schedule the one at this step."""
    return rate if isinstance(rate, Tensor) or not callable(rate) else rate(step)


def _count(step: Tensor | float) -> Tensor:
    return torch.as_tensor(step).double()


def _straight(start: float, end: float, fraction: Tensor) -> Tensor:
    return start + (end - start) * fraction


def _half_cosine(start: float, end: float, fraction: Tensor) -> Tensor:
    return end + (start - end) * 0.5 * (1 + torch.cos(math.pi * fraction))


def _interpolated(marks: list[int], values: list[float], between: Callable[[float, float, Tensor], Tensor]) -> Schedule:
    if any(after <= before for before, after in itertools.pairwise(marks)):
        raise ArgumentError(
            f"a cycle with turns at the steps {marks}: expected them to rise; give more steps or other parts"
        )

    def schedule(step: Tensor) -> Tensor:
        count = _count(step)
        value = count * 0 + values[-1]
        for place in reversed(range(len(marks) - 1)):
            fraction = ((count - marks[place]) / (marks[place + 1] - marks[place])).clamp(0, 1)
            value = torch.where(count < marks[place + 1], between(values[place], values[place + 1], fraction), value)
        return value

    return schedule


def _raise_unless_steps(least: int = 1, **given: int) -> None:
    for name, value in given.items():
        if value < least:
            raise ArgumentError(f"{name}={value}: expected a whole number of at least {least}")
