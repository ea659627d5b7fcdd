"""The links of a chain: what is done to gradients before they are added to the parameters.

Names and formulas are optax's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError
from pure.layers.alignment import widen
from pure.optim.schedules import Rate, Schedule, at_step
from pure.optim.selection import Where, masked
from pure.optim.transformation import (
    GradientTransformation,
    Tree,
    first_step,
    raise_unless_decay,
    raise_unless_nonnegative,
    recorded,
    stateless,
    zeros_like,
)

__all__ = [
    "add_decayed_weights",
    "clip",
    "clip_by_global_norm",
    "ema",
    "global_norm",
    "scale",
    "scale_by_adam",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_schedule",
    "scale_by_trust_ratio",
    "trace",
]


@recorded
def scale(factor: float | Tensor) -> GradientTransformation:
    """Return u ← factor · u."""
    return stateless(lambda updates, params: tree.tree_map(lambda u: u * factor, updates))


@recorded
def scale_by_schedule(schedule: Schedule) -> GradientTransformation:
    """Return u ← schedule(step) · u, with state {"step": int64, 0 at first}.

    Args:
        schedule: a function of the step, a 0-d int64 tensor.
    """

    def update(updates: Tree, state: dict[str, Tensor], params: Tree) -> tuple[Tree, dict[str, Tensor]]:
        factor = schedule(state["step"])
        return tree.tree_map(lambda u: u * factor, updates), {"step": state["step"] + 1}

    return GradientTransformation(lambda params: {"step": first_step(params)}, update)


@recorded
def scale_by_learning_rate(learning_rate: Rate) -> GradientTransformation:
    """Return u ← −rate · u, the last link of a chain that descends.

    Args:
        learning_rate: a number, a 0-d tensor, or a function of the step (then with state {"step": int64}).
    """
    if callable(learning_rate) and not isinstance(learning_rate, Tensor):
        return scale_by_schedule(lambda step: -at_step(learning_rate, step))
    return scale(-learning_rate)


@recorded
def clip(max_delta: float) -> GradientTransformation:
    """Return each element limited to [−max_delta, max_delta], as `torch.nn.utils.clip_grad_value_`.

    Raises:
        ArgumentError: a limit below 0.
    """
    raise_unless_nonnegative(max_delta=max_delta)
    return stateless(lambda updates, params: tree.tree_map(lambda u: u.clamp(-max_delta, max_delta), updates))


def global_norm(updates: Tree) -> Tensor:
    """Return the Euclidean norm of all leaves together, a 0-d tensor; narrow dtypes are squared in float32."""
    squares = [widen(leaf).square().sum() for leaf in tree.leaves(updates)]
    if not squares:
        raise ArgumentError("global_norm: expected a tree with at least one tensor, got none")
    return sum(squares[1:], squares[0]).sqrt()


@recorded
def clip_by_global_norm(max_norm: float | Tensor) -> GradientTransformation:
    """Return u ← u · min(1, max_norm / ‖u‖), the norm over all leaves together.

    `torch.nn.utils.clip_grad_norm_` adds 1e-6 to the norm; this does not.

    Raises:
        ArgumentError: a limit below 0.

    References:
        Pascanu et al. 2013 (1211.5063), algorithm 1.
    """
    raise_unless_nonnegative(max_norm=max_norm)

    def update(updates: Tree, params: Tree) -> Tree:
        norm = global_norm(updates)
        within = norm < max_norm
        factor = torch.where(within, 1.0, max_norm / torch.where(within, 1.0, norm))
        return tree.tree_map(lambda u: u * factor.to(u.dtype), updates)

    return stateless(update)


@recorded
def add_decayed_weights(weight_decay: float | Tensor, mask: Where | None = None) -> GradientTransformation:
    """Return u ← u + weight_decay · θ.

    Args:
        weight_decay: the factor.
        mask: which leaves decay: glob patterns over dotted names (`"*.weight"`), a function of name and leaf, or a
            tree of booleans; all unless given.

    Raises:
        ArgumentError: a negative factor.
        TreeError: a pattern matches no leaf (when it is first used).

    References:
        Loshchilov and Hutter 2017 (1711.05101), section 2.
    """
    raise_unless_nonnegative(weight_decay=weight_decay)

    decay = stateless(lambda updates, params: tree.tree_map(lambda u, p: u + weight_decay * p, updates, params))
    return decay if mask is None else masked(decay, mask)


@recorded
def trace(decay: float | Tensor, nesterov: bool = False) -> GradientTransformation:
    """Return momentum: v ← decay · v + u, with state {"velocity": tree}.

    Args:
        decay: the momentum, in [0, 1).
        nesterov: return u + decay · v instead of v.

    Raises:
        ArgumentError: a decay outside [0, 1).

    References:
        Sutskever et al. 2013, section 2, in PyTorch's form.
    """
    raise_unless_decay(decay=decay)

    def update(updates: Tree, state: dict[str, Tree], params: Tree) -> tuple[Tree, dict[str, Tree]]:
        velocity = tree.tree_map(lambda u, v: decay * v + u, updates, state["velocity"])
        ahead = tree.tree_map(lambda u, v: u + decay * v, updates, velocity) if nesterov else velocity
        return ahead, {"velocity": velocity}

    return GradientTransformation(lambda params: {"velocity": zeros_like(params)}, update)


@recorded
def scale_by_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> GradientTransformation:
    """Return m̂ / (√v̂ + eps), with state {"step": int64, "mean": tree, "square": tree}.

    Updates of float16 and bfloat16 leaves are float32: `apply_updates` rounds once.

    Args:
        b1: decay of the first moment m.
        b2: decay of the second moment v.
        eps: added to √v̂.

    Raises:
        ArgumentError: a decay outside [0, 1), or a negative eps.

    References:
        Kingma and Ba 2014 (1412.6980), algorithm 1.
    """
    raise_unless_decay(b1=b1, b2=b2)
    raise_unless_nonnegative(eps=eps)

    def init(params: Tree) -> dict[str, Any]:
        return {"step": first_step(params), "mean": zeros_like(params), "square": zeros_like(params)}

    def update(updates: Tree, state: dict[str, Any], params: Tree) -> tuple[Tree, dict[str, Any]]:
        step = state["step"] + 1
        mean = tree.tree_map(lambda u, m: b1 * m + (1 - b1) * u, updates, state["mean"])
        square = tree.tree_map(lambda u, v: b2 * v + (1 - b2) * u * u, updates, state["square"])

        def unbiased(m: Tensor, v: Tensor) -> Tensor:
            m, v = widen(m), widen(v)  # in bfloat16 0.999 is 1, in float16 an epsilon of 1e-8 is 0
            count = step.to(m.dtype)
            return m / (1 - b1**count) / ((v / (1 - b2**count)).sqrt() + eps)

        return tree.tree_map(unbiased, mean, square), {"step": step, "mean": mean, "square": square}

    return GradientTransformation(init, update)


@recorded
def scale_by_lion(b1: float = 0.9, b2: float = 0.99) -> GradientTransformation:
    """Return sign(b1 · m + (1 − b1) · u), then m ← b2 · m + (1 − b2) · u; state {"mean": tree}.

    Raises:
        ArgumentError: a decay outside [0, 1).

    References:
        Chen et al. 2023 (2302.06675), algorithm 2.
    """
    raise_unless_decay(b1=b1, b2=b2)

    def update(updates: Tree, state: dict[str, Tree], params: Tree) -> tuple[Tree, dict[str, Tree]]:
        signs = tree.tree_map(lambda u, m: (b1 * m + (1 - b1) * u).sign(), updates, state["mean"])
        return signs, {"mean": tree.tree_map(lambda u, m: b2 * m + (1 - b2) * u, updates, state["mean"])}

    return GradientTransformation(lambda params: {"mean": zeros_like(params)}, update)


@recorded
def scale_by_trust_ratio(eps: float = 0.0) -> GradientTransformation:
    """Return u ← u · ‖θ‖ / (‖u‖ + eps), leaf by leaf; a leaf or an update of zeros keeps the factor 1.

    Raises:
        ArgumentError: a negative eps.

    References:
        You et al. 2019 (1904.00962), algorithm 2, with φ the identity.
    """
    raise_unless_nonnegative(eps=eps)

    def scaled(u: Tensor, p: Tensor) -> Tensor:
        length = global_norm({"u": u})
        own = global_norm({"p": p}).to(length.dtype)
        zero = (own == 0) | (length == 0)
        return u * torch.where(zero, 1.0, own / torch.where(zero, 1.0, length + eps)).to(u.dtype)

    return stateless(lambda updates, params: tree.tree_map(scaled, updates, params))


@recorded
def ema(decay: float | Tensor, debias: bool = True) -> GradientTransformation:
    """Return the exponential moving average e ← decay · e + (1 − decay) · u; state {"step": int64, "average": tree}.

    Given parameters in place of updates it averages parameters: `average, state = mean.update(params, state, params)`.

    Args:
        decay: in [0, 1).
        debias: begin at zeros and divide by 1 − decay^step, as optax does; else begin at what `init` is given, as
            `torch.optim.swa_utils.AveragedModel` does.

    Raises:
        ArgumentError: a decay outside [0, 1).

    Example:
        >>> average = ema(0.9, debias=False)
        >>> average.update({"w": torch.ones(1)}, average.init({"w": torch.zeros(1)}), None)[0]
        {'w': tensor([0.1000])}
    """
    raise_unless_decay(decay=decay)

    def init(params: Tree) -> dict[str, Any]:
        return {"step": first_step(params), "average": zeros_like(params) if debias else params}

    def update(updates: Tree, state: dict[str, Any], params: Tree) -> tuple[Tree, dict[str, Any]]:
        step = state["step"] + 1
        average = tree.tree_map(lambda u, e: decay * e + (1 - decay) * u, updates, state["average"])

        def unbiased(e: Tensor) -> Tensor:
            wide = widen(e)
            return (wide / (1 - decay ** step.to(wide.dtype))).to(e.dtype)

        found = tree.tree_map(unbiased, average) if debias else average
        return found, {"step": step, "average": average}

    return GradientTransformation(init, update)
