"""Optimisers as pairs of pure functions, `init(params)` and `update(grads, state, params)`.

    optimizer = adamw(1e-3)
    opt_state = optimizer.init(params)
    params, opt_state = optimizer.update(grads, opt_state, params)

Trees in, trees out; nothing is changed in place, so that steps compose with `torch.func.vmap` (an ensemble trained at
once), `torch.compile` and export.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.errors import ArgumentError

__all__ = ["Optimizer", "adamw", "sgd"]

Tree = Any
Rate = float | Callable[[Tensor], Tensor | float]


@dataclass(frozen=True)
class Optimizer:
    """The two pure functions of an optimiser.

    Attributes:
        init: params → state.
        update: (grads, state, params) → (new params, new state).
    """

    init: Callable[[Tree], dict[str, Any]]
    update: Callable[[Tree, dict[str, Any], Tree], tuple[Tree, dict[str, Any]]]


def _rate(rate: Rate, step: Tensor) -> Any:
    return rate(step) if callable(rate) else rate


def _nonnegative(**given: float) -> None:
    for name, value in given.items():
        if value < 0:
            raise ArgumentError(f"{name}={value}: expected a number of at least 0")


def _first_step(params: Tree) -> Tensor:
    flat = tree.leaves(params)
    return torch.zeros((), dtype=torch.int64, device=flat[0].device if flat else None)


def sgd(learning_rate: Rate, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> Optimizer:
    """Return SGD: v ← momentum · v + g, θ ← θ − rate · v, as `torch.optim.SGD` (dampening 0).

    Args:
        learning_rate: a number, or a function of the step (a 0-d int64 tensor, 0 at first).
        momentum: of the velocity.
        nesterov: look ahead by one step of momentum.
        weight_decay: L2 penalty, added to the gradient.

    Returns:
        An `Optimizer` with state {"step": int64, "velocity": tree} (no velocity without momentum).

    Raises:
        ArgumentError: a negative number, or nesterov without momentum.

    Example:
        >>> optimizer = sgd(0.1)
        >>> params = {"w": torch.ones(2)}
        >>> optimizer.update({"w": torch.ones(2)}, optimizer.init(params), params)[0]
        {'w': tensor([0.9000, 0.9000])}

    References:
        Sutskever et al. 2013, section 2, in PyTorch's form.
    """
    _nonnegative(momentum=momentum, weight_decay=weight_decay)
    if nesterov and not momentum:
        raise ArgumentError("nesterov without momentum: give momentum=0.9, say")

    def init(params: Tree) -> dict[str, Any]:
        state: dict[str, Any] = {"step": _first_step(params)}
        if momentum:
            state["velocity"] = tree.tree_map(torch.zeros_like, params)
        return state

    def update(grads: Tree, state: dict[str, Any], params: Tree) -> tuple[Tree, dict[str, Any]]:
        rate = _rate(learning_rate, state["step"])
        new_state: dict[str, Any] = {"step": state["step"] + 1}
        if weight_decay:
            grads = tree.tree_map(lambda g, p: g + weight_decay * p, grads, params)
        if momentum:
            velocity = tree.tree_map(lambda v, g: momentum * v + g, state["velocity"], grads)
            new_state["velocity"] = velocity
            grads = tree.tree_map(lambda g, v: g + momentum * v, grads, velocity) if nesterov else velocity
        return tree.tree_map(lambda p, g: (p - rate * g).to(p.dtype), params, grads), new_state

    return Optimizer(init, update)


def adamw(
    learning_rate: Rate = 1e-3,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Optimizer:
    """Adam with decoupled weight decay, as `torch.optim.AdamW`; `weight_decay=0` is Adam.

    θ ← (1 − rate · decay) θ − rate · m̂ / (√v̂ + eps), with bias-corrected moments m̂ and v̂.

    Args:
        learning_rate: a number, or a function of the step (a 0-d int64 tensor, 0 at first).
        betas: decay of the first and second moment.
        eps: added to √v̂.
        weight_decay: per unit of learning rate.

    Returns:
        An `Optimizer` with state {"step": int64, "mean": tree, "square": tree}.

    Raises:
        ArgumentError: a negative number, or a beta outside [0, 1).

    Example:
        >>> optimizer = adamw(0.1, weight_decay=0.0)
        >>> params = {"w": torch.ones(2)}
        >>> optimizer.update({"w": torch.ones(2)}, optimizer.init(params), params)[0]
        {'w': tensor([0.9000, 0.9000])}

    References:
        Loshchilov and Hutter 2017 (1711.05101), algorithm 2.
    """
    _nonnegative(eps=eps, weight_decay=weight_decay)
    first, second = betas
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ArgumentError(f"betas={betas}: expected two numbers in [0, 1)")

    def init(params: Tree) -> dict[str, Any]:
        zeros = [tree.tree_map(torch.zeros_like, params) for _ in range(2)]
        return {"step": _first_step(params), "mean": zeros[0], "square": zeros[1]}

    def update(grads: Tree, state: dict[str, Any], params: Tree) -> tuple[Tree, dict[str, Any]]:
        rate, step = _rate(learning_rate, state["step"]), state["step"] + 1
        mean = tree.tree_map(lambda m, g: first * m + (1 - first) * g, state["mean"], grads)
        square = tree.tree_map(lambda v, g: second * v + (1 - second) * g * g, state["square"], grads)

        def moved(p: Tensor, m: Tensor, v: Tensor) -> Tensor:
            wide = torch.promote_types(p.dtype, torch.float32)  # in bfloat16 0.999 is 1, in float16 eps is 0
            count, m, v = step.to(wide), m.to(wide), v.to(wide)
            unbiased = m / (1 - first**count)
            new = p * (1 - rate * weight_decay) - rate * unbiased / ((v / (1 - second**count)).sqrt() + eps)
            return new.to(p.dtype)

        return tree.tree_map(moved, params, mean, square), {"step": step, "mean": mean, "square": square}

    return Optimizer(init, update)
