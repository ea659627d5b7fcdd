"""Whole optimisers: chains under the names that people know."""

from __future__ import annotations

from pure.errors import ArgumentError
from pure.optim.schedules import Rate
from pure.optim.selection import Where
from pure.optim.transformation import GradientTransformation, chain, raise_unless_decay, raise_unless_nonnegative
from pure.optim.transforms import (
    add_decayed_weights,
    scale_by_adam,
    scale_by_learning_rate,
    scale_by_lion,
    scale_by_trust_ratio,
    trace,
)

__all__ = ["adam", "adamw", "lamb", "lion", "sgd"]


def sgd(
    learning_rate: Rate,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    mask: Where | None = None,
) -> GradientTransformation:
    """Return SGD: v ← momentum · v + g, θ ← θ − rate · v, as `torch.optim.SGD` (dampening 0).

    Args:
        learning_rate: a number, a 0-d tensor, or a function of the step (a 0-d int64 tensor, 0 at first).
        momentum: of the velocity.
        nesterov: look ahead by one step of momentum.
        weight_decay: L2 penalty, added to the gradient.
        mask: which leaves decay, as for `add_decayed_weights`.

    Raises:
        ArgumentError: a negative number, or nesterov without momentum.

    Example:
        >>> import torch
        >>> optimizer = sgd(0.1)
        >>> params = {"w": torch.ones(2)}
        >>> optimizer.step({"w": torch.ones(2)}, optimizer.init(params), params)[0]
        {'w': tensor([0.9000, 0.9000])}

    References:
        Sutskever et al. 2013, section 2, in PyTorch's form.
    """
    raise_unless_nonnegative(momentum=momentum, weight_decay=weight_decay)
    if nesterov and not momentum:
        raise ArgumentError("nesterov without momentum: give momentum=0.9, say")
    links = [add_decayed_weights(weight_decay, mask)] if weight_decay else []
    links += [trace(momentum, nesterov)] if momentum else []
    return chain(*links, scale_by_learning_rate(learning_rate))


def adam(
    learning_rate: Rate = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> GradientTransformation:
    """Return Adam, as `torch.optim.Adam`: `adamw` without decay.

    Args:
        learning_rate: a number, a 0-d tensor, or a function of the step.
        betas: decay of the first and second moment.
        eps: added to √v̂.

    Raises:
        ArgumentError: a negative eps, or a beta outside [0, 1).

    References:
        Kingma and Ba 2014 (1412.6980), algorithm 1.
    """
    return adamw(learning_rate, betas=betas, eps=eps, weight_decay=0.0)


def adamw(
    learning_rate: Rate = 1e-3,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    mask: Where | None = None,
) -> GradientTransformation:
    """Return Adam with decoupled weight decay, as `torch.optim.AdamW`; `weight_decay=0` is Adam.

    θ ← (1 − rate · decay) θ − rate · m̂ / (√v̂ + eps), with bias-corrected moments m̂ and v̂.

    Args:
        learning_rate: a number, a 0-d tensor, or a function of the step (a 0-d int64 tensor, 0 at first).
        betas: decay of the first and second moment.
        eps: added to √v̂.
        weight_decay: per unit of learning rate.
        mask: which leaves decay, as for `add_decayed_weights`.

    Raises:
        ArgumentError: a negative number, or a beta outside [0, 1).

    Example:
        >>> import torch
        >>> optimizer = adamw(0.1, weight_decay=0.0)
        >>> params = {"w": torch.ones(2)}
        >>> optimizer.step({"w": torch.ones(2)}, optimizer.init(params), params)[0]
        {'w': tensor([0.9000, 0.9000])}

    References:
        Loshchilov and Hutter 2017 (1711.05101), algorithm 2.
    """
    links = [scale_by_adam(*_two(betas), eps), *_decay(weight_decay, mask)]
    return chain(*links, scale_by_learning_rate(learning_rate))


def lamb(
    learning_rate: Rate,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    mask: Where | None = None,
) -> GradientTransformation:
    """Return LAMB, as optax's: Adam's direction with decay, scaled leaf by leaf to the length of the parameters.

    Args:
        learning_rate: a number, a 0-d tensor, or a function of the step.
        betas: decay of the first and second moment.
        eps: added to √v̂.
        weight_decay: added before the scaling.
        mask: which leaves decay, as for `add_decayed_weights`.

    Raises:
        ArgumentError: a negative number, or a beta outside [0, 1).

    References:
        You et al. 2019 (1904.00962), algorithm 2.
    """
    links = [scale_by_adam(*_two(betas), eps), *_decay(weight_decay, mask), scale_by_trust_ratio()]
    return chain(*links, scale_by_learning_rate(learning_rate))


def lion(
    learning_rate: Rate,
    *,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 1e-3,
    mask: Where | None = None,
) -> GradientTransformation:
    """Return Lion: the sign of a momentum, with decoupled decay.

    Args:
        learning_rate: a number, a 0-d tensor, or a function of the step; about a tenth of AdamW's.
        betas: the weights of the momentum in the step, and in the momentum to come.
        weight_decay: per unit of learning rate; about ten times AdamW's.
        mask: which leaves decay, as for `add_decayed_weights`.

    Raises:
        ArgumentError: a negative number, or a beta outside [0, 1).

    References:
        Chen et al. 2023 (2302.06675), algorithm 2.
    """
    links = [scale_by_lion(*_two(betas)), *_decay(weight_decay, mask)]
    return chain(*links, scale_by_learning_rate(learning_rate))


def _two(betas: tuple[float, float]) -> tuple[float, float]:
    if len(betas) != 2:
        raise ArgumentError(f"betas={betas}: expected two numbers in [0, 1)")
    raise_unless_decay(**{f"betas[{place}]": beta for place, beta in enumerate(betas)})
    return betas


def _decay(weight_decay: float, mask: Where | None) -> list[GradientTransformation]:
    raise_unless_nonnegative(weight_decay=weight_decay)
    return [add_decayed_weights(weight_decay, mask)] if weight_decay else []
